#include "core/pack/scheme.h"

#include <array>
#include <charconv>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"

namespace retort {
namespace {

struct NamedScheme {
  std::string_view name;
  Scheme scheme;
};

constexpr Scheme block_scheme(BlockType block, int bits, int64_t group) {
  return {
      .bits = bits, .granularity = Granularity::kGroup, .group = group, .symmetric = true, .block = block, .dense = {}};
}
constexpr Scheme dense_scheme(DType type, int bits) {
  return {.bits = bits,
          .granularity = Granularity::kTensor,
          .group = 0,
          .symmetric = true,
          .block = BlockType::kNone,
          .dense = type};
}

// Names that are not of the form intB-G-S.
constexpr std::array kNamed{
    NamedScheme{"q8_0", block_scheme(BlockType::kQ8_0, 8, 32)},
    NamedScheme{"q4_0", block_scheme(BlockType::kQ4_0, 4, 32)},
    NamedScheme{"f16", dense_scheme(DType::kF16, 16)},
    NamedScheme{"bf16", dense_scheme(DType::kBF16, 16)},
    NamedScheme{"f32", dense_scheme(DType::kF32, 32)},
};

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

std::vector<std::string> example_names() {
  std::vector<std::string> names;
  for (const NamedScheme& named : kNamed) names.emplace_back(named.name);
  for (const char* bits : {"int2", "int3", "int4", "int8"})
    for (const char* group : {"g32", "g64", "g128", "channel", "tensor"})
      for (const char* symmetry : {"sym", "asym"}) names.push_back(std::string(bits) + "-" + group + "-" + symmetry);
  return names;
}

}  // namespace

std::optional<Scheme> find_scheme(std::string_view text) {
  for (const NamedScheme& named : kNamed)
    if (named.name == text) return named.scheme;
  return parse_integer_scheme(text);
}

Scheme parse_scheme(std::string_view text) {
  if (const auto scheme = find_scheme(text)) return *scheme;
  fail_usage("options", "--scheme", "'" + std::string(text) + "' is not a scheme",
             "The nearest valid one is " + nearest_name(text, example_names()));
}

std::string name_of(const Scheme& scheme) {
  for (const NamedScheme& named : kNamed)
    if (named.scheme == scheme) return std::string(named.name);
  const std::string group = scheme.granularity == Granularity::kGroup     ? "g" + std::to_string(scheme.group)
                            : scheme.granularity == Granularity::kChannel ? "channel"
                                                                          : "tensor";
  return "int" + std::to_string(scheme.bits) + "-" + group + (scheme.symmetric ? "-sym" : "-asym");
}

Scheme fallback_scheme(const Scheme& scheme) {
  if (scheme.is_dense()) return scheme;
  if (scheme.block != BlockType::kNone) return parse_scheme("f16");
  Scheme by_channel = scheme;
  by_channel.granularity = Granularity::kChannel;
  by_channel.group = 0;
  return by_channel;
}

double bits_per_weight(const Scheme& scheme, int64_t rows, int64_t cols) {
  if (scheme.is_dense()) return static_cast<double>(size_of(*scheme.dense)) * 8;
  const int64_t row_bits = (cols * scheme.bits + 7) / 8 * 8 + scheme.groups(cols) * (scheme.symmetric ? 16 : 24);
  return static_cast<double>(rows * row_bits) / static_cast<double>(rows * cols);
}

}  // namespace retort
