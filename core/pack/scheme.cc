#include "core/pack/scheme.h"

#include <array>
#include <charconv>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/pack/block_types.h"
#include "core/pack/scheme_names.h"

namespace retort {
namespace {

struct NamedScheme {
  std::string_view name;
  Scheme scheme;
};

Scheme block_scheme(const BlockInfo& info) {
  return {.bits = info.bits,
          .granularity = Granularity::kGroup,
          .group = info.group,
          .symmetric = info.symmetric,
          .block = info.type,
          .dense = {},
          .book = info.book};
}
constexpr Scheme dense_scheme(DType type, int bits) {
  return {.bits = bits,
          .granularity = Granularity::kTensor,
          .group = 0,
          .symmetric = true,
          .block = BlockType::kNone,
          .dense = type};
}

constexpr std::array kDense{
    NamedScheme{"f16", dense_scheme(DType::kF16, 16)},
    NamedScheme{"bf16", dense_scheme(DType::kBF16, 16)},
    NamedScheme{"f32", dense_scheme(DType::kF32, 32)},
};

// Names that are not of the form intB-G-S or nf4-G.
std::vector<NamedScheme> named_schemes() {
  std::vector<NamedScheme> named(kDense.begin(), kDense.end());
  for (const BlockInfo& info : block_types()) named.push_back({info.name, block_scheme(info)});
  return named;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t at; (at = text.find(separator)) != std::string_view::npos; text.remove_prefix(at + 1))
    parts.push_back(text.substr(0, at));
  parts.push_back(text);
  return parts;
}

bool parse_granularity(std::string_view text, Scheme& scheme) {
  if (text == "channel" || text == "tensor") {
    scheme.granularity = text == "channel" ? Granularity::kChannel : Granularity::kTensor;
    scheme.group = 0;
    return true;
  }
  if (!text.starts_with('g')) return false;
  text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), scheme.group);
  return error == std::errc() && end == text.data() + text.size() && scheme.group >= 8 && scheme.group <= 65536;
}

std::optional<Scheme> parse_integer_scheme(std::string_view text) {
  const auto parts = split(text, '-');
  if (parts[0].size() != 4 || !parts[0].starts_with("int")) return std::nullopt;
  Scheme scheme;
  scheme.bits = parts[0][3] - '0';
  if (scheme.bits != 2 && scheme.bits != 3 && scheme.bits != 4 && scheme.bits != 8) return std::nullopt;
  if (parts.size() > 3) return std::nullopt;
  if (parts.size() > 1 && !parse_granularity(parts[1], scheme)) return std::nullopt;
  if (parts.size() > 2) {
    if (parts[2] != "sym" && parts[2] != "asym") return std::nullopt;
    scheme.symmetric = parts[2] == "sym";
  }
  return scheme;
}

std::optional<Scheme> parse_nf4_scheme(std::string_view text) {
  if (!text.starts_with("nf4-")) return std::nullopt;
  Scheme scheme{.dense = {}, .book = CodeBook::kNf4};
  return parse_granularity(text.substr(4), scheme) ? std::optional(scheme) : std::nullopt;
}

constexpr std::array<float, 16> kNf4Levels{-1.0f,
                                           -0.6961928009986877f,
                                           -0.5250730514526367f,
                                           -0.39491748809814453f,
                                           -0.28444138169288635f,
                                           -0.18477343022823334f,
                                           -0.09105003625154495f,
                                           0.0f,
                                           0.07958029955625534f,
                                           0.16093020141124725f,
                                           0.24611230194568634f,
                                           0.33791524171829224f,
                                           0.44070982933044434f,
                                           0.5626170039176941f,
                                           0.7229568362236023f,
                                           1.0f};
constexpr std::array<float, 16> kIq4Levels{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

}  // namespace

std::span<const float> levels_of(CodeBook book) {
  if (book == CodeBook::kLinear) return {};
  return book == CodeBook::kNf4 ? kNf4Levels : kIq4Levels;
}

std::vector<std::string> scheme_names() {
  std::vector<std::string> names{"int4", "nf4-g64"};
  for (const NamedScheme& named : named_schemes()) names.emplace_back(named.name);
  for (const char* bits : {"int2", "int3", "int4", "int8"})
    for (const char* group : {"g32", "g64", "g128", "channel", "tensor"})
      for (const char* symmetry : {"sym", "asym"}) names.push_back(std::string(bits) + "-" + group + "-" + symmetry);
  return names;
}

std::optional<Scheme> find_scheme(std::string_view text) {
  for (const NamedScheme& named : named_schemes())
    if (named.name == text) return named.scheme;
  if (const auto scheme = parse_nf4_scheme(text)) return scheme;
  return parse_integer_scheme(text);
}

Scheme parse_scheme(std::string_view text) {
  if (const auto scheme = find_scheme(text)) return *scheme;
  fail_usage("options", "--scheme", "'" + std::string(text) + "' is not a scheme",
             "The nearest valid one is " + nearest_name(text, scheme_names()));
}

std::string name_of(const Scheme& scheme) {
  for (const NamedScheme& named : named_schemes())
    if (named.scheme == scheme) return std::string(named.name);
  const std::string group = scheme.granularity == Granularity::kGroup     ? "g" + std::to_string(scheme.group)
                            : scheme.granularity == Granularity::kChannel ? "channel"
                                                                          : "tensor";
  if (scheme.book == CodeBook::kNf4) return "nf4-" + group;
  return "int" + std::to_string(scheme.bits) + "-" + group + (scheme.symmetric ? "-sym" : "-asym");
}

Scheme fallback_scheme(const Scheme& scheme) {
  if (scheme.is_dense()) return scheme;
  if (scheme.is_block()) {
    const BlockType narrow = block_info(scheme.block).narrow;
    return narrow == BlockType::kNone ? parse_scheme("f16") : block_scheme(block_info(narrow));
  }
  Scheme by_channel = scheme;
  by_channel.granularity = Granularity::kChannel;
  by_channel.group = 0;
  return by_channel;
}

double bits_per_weight(const Scheme& scheme, int64_t rows, int64_t cols, int64_t outliers) {
  if (scheme.is_dense()) return static_cast<double>(size_of(*scheme.dense)) * 8;
  if (scheme.is_block()) {
    const BlockInfo& info = block_info(scheme.block);
    return static_cast<double>(info.bytes * 8) / static_cast<double>(info.elements);
  }
  const int64_t row_bits = (cols * scheme.bits + 7) / 8 * 8 + scheme.groups(cols) * (scheme.symmetric ? 16 : 24);
  const int64_t outlier_bits = outliers * (rows * 16 + 32);
  return static_cast<double>(rows * row_bits + outlier_bits) / static_cast<double>(rows * cols);
}

}  // namespace retort
