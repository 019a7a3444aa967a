#include "core/checkpoint/stored_weights.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/arch/family.h"
#include "core/base/error.h"
#include "core/pack/parts.h"

namespace retort {

// The settings, with what they belong to.
struct Settings {
  const Json& json;
  const ModelConfig& config;
  const std::string& label;

  [[noreturn]] void refuse(const std::string& reason, const std::string& remedy = {}) const {
    fail("checkpoint", label, reason, remedy);
  }
  template <typename T>
  T value(const char* key, T fallback) const {
    return json_value<T>(json, key, fallback, label);
  }
};

// A weight of the model and what is stored of it.
struct PartsOfWeight {
  std::string_view name;
  int64_t rows, cols;
  std::span<const PackedPartView> parts;
};

struct StoredMethod {
  std::string_view name, container;
  bool replaces_weight;               // parts are named MODULE.part instead of MODULE.weight.part
  std::span<const StoredPart> parts;  // the codes first
  std::string_view scales;            // the part that holds them
  void (*check)(const Settings&);     // refuses the variants that are not read
  std::optional<StoredWeight> (*find)(const Settings&, const PartsOfWeight&);
};

namespace {

bool holds_f16(const PackedPartView* scales) {
  if (scales == nullptr || scales->dtype == DType::kF16 || !is_float(scales->dtype)) return true;
  std::vector<float> values(scales->bytes.size() / size_of(scales->dtype));
  decode_to_f32(scales->dtype, scales->bytes, values);
  // What is not finite is left to the reader, which refuses it.
  return std::ranges::all_of(values, [](float s) { return !std::isfinite(s) || f16_to_f32(f32_to_f16(s)) == s; });
}

// ---- native: the scheme of every weight by its name

constexpr std::array kNativeParts{StoredPart{"codes", 0},           StoredPart{"scales", 0}, StoredPart{"zeros", 0},
                                  StoredPart{"groups", -1},         StoredPart{"blocks", 0}, StoredPart{"outliers", 0},
                                  StoredPart{"outlier_columns", -1}};

const Json& native_schemes(const Settings& settings) { return *settings.json.find("tensors"); }

void check_native(const Settings& settings) {
  if (const auto version = json_required<int64_t>(settings.json, "version", settings.label);
      version != 1 && version != 2)
    settings.refuse("the version " + std::to_string(version) + " of the quantized layout is not known",
                    "This program reads versions 1 and 2");
  const auto tensors = settings.json.find("tensors");
  if (tensors == settings.json.end() || !tensors->is_object())
    settings.refuse("quantization_config has no object 'tensors'");
  for (const auto& [name, scheme] : tensors->items()) {
    const auto parsed = scheme.is_string() ? find_scheme(scheme.get<std::string>()) : std::nullopt;
    if (!parsed || parsed->is_dense())
      settings.refuse("the scheme " + scheme.dump() + " of the tensor '" + name + "' is not known");
    const auto match = match_tensor(settings.config, name);
    if (!match || match->rule->cols == Dim::kNone)
      settings.refuse("quantization_config names '" + name + "', which is not a matrix of this model");
  }
}

std::optional<StoredWeight> find_native(const Settings& settings, const PartsOfWeight& weight) {
  const auto scheme = native_schemes(settings).find(weight.name);
  if (scheme == native_schemes(settings).end()) return std::nullopt;
  const Scheme parsed = parse_scheme(scheme->get<std::string>());
  return StoredWeight{.scheme = parsed, .format = &storage_format(parsed)};
}

// ---- methods of other programs: the scheme of a weight by the shapes of its parts

NamedWidth checked_width(const Settings& settings, int64_t bits, int64_t group) {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
    settings.refuse("weights of " + std::to_string(bits) + " bits are not read");
  if (group != -1 && (group < 8 || group > 65536))
    settings.refuse("groups of " + std::to_string(group) + " weights are not read");
  return {static_cast<int>(bits), std::max<int64_t>(group, 0)};
}

struct Shapes {
  std::string_view codes_part, scales_part;
  std::vector<int64_t> (*codes)(int bits, int64_t rows, int64_t cols);
  std::vector<int64_t> (*scales)(int64_t rows, int64_t groups);
};

Scheme scheme_of(const NamedWidth& width, bool symmetric) {
  return {.bits = width.bits,
          .granularity = width.group == 0 ? Granularity::kChannel : Granularity::kGroup,
          .group = width.group,
          .symmetric = symmetric,
          .dense = {}};
}

// The scheme that the settings name and the parts have, symmetric at first; none without codes.
std::optional<Scheme> scheme_by_shapes(const Shapes& shapes, std::span<const NamedWidth> widths,
                                       const Settings& settings, const PartsOfWeight& weight) {
  const PackedPartView* codes = find_part(weight.parts, shapes.codes_part);
  const PackedPartView* scales = find_part(weight.parts, shapes.scales_part);
  if (codes == nullptr) return std::nullopt;
  const std::string subject = "the weight '" + std::string(weight.name) + "' ";
  if (scales == nullptr) settings.refuse(subject + "has no " + std::string(shapes.scales_part));
  for (const NamedWidth& width : widths) {
    const Scheme scheme = scheme_of(width, true);
    if (scheme.fits(weight.cols) && codes->shape == shapes.codes(width.bits, weight.rows, weight.cols) &&
        scales->shape == shapes.scales(weight.rows, scheme.groups(weight.cols)))
      return scheme;
  }
  settings.refuse(subject + "of the shape [" + std::to_string(weight.rows) + "," + std::to_string(weight.cols) +
                  "] is stored as codes " + Json(codes->shape).dump() + " and scales " + Json(scales->shape).dump() +
                  ", which no bits and group_size of quantization_config give");
}

// Whether all zero points are the middle, as `format` would store them.
bool zeros_in_the_middle(const PackedFormat& format, const Scheme& scheme, const PartsOfWeight& weight) {
  constexpr int64_t kCols = 32;  // one group
  const PackedPartView* zeros = find_part(weight.parts, "qzeros");
  const QuantizedMatrix probe = make_quantized(scheme_of({scheme.bits, kCols}, true), weight.rows, kCols);
  if (zeros == nullptr || !format.refuses(probe).empty()) return false;
  const std::vector<PackedPart> packed = format.pack(probe);
  const auto middle = std::ranges::find(packed, "qzeros", &PackedPart::name)->bytes;
  if (zeros->bytes.size() % middle.size() != 0) return false;
  for (size_t at = 0; at < zeros->bytes.size(); at += middle.size())
    if (!std::ranges::equal(zeros->bytes.subspan(at, middle.size()), middle)) return false;
  return true;
}

// ---- GPTQ, as AutoGPTQ, GPTQModel and AutoRound write it

constexpr std::array kGptqParts{StoredPart{"qweight", 1}, StoredPart{"qzeros", 1}, StoredPart{"scales", 1},
                                StoredPart{"g_idx", -1}};
constexpr Shapes kGptqShapes{"qweight", "scales",
                             [](int bits, int64_t rows, int64_t cols) {
                               return std::vector<int64_t>{cols * bits / 32, rows};
                             },
                             [](int64_t rows, int64_t groups) {
                               return std::vector<int64_t>{groups, rows};
                             }};

std::string gptq_version(const Settings& settings) {
  return settings.value<std::string>("checkpoint_format", settings.value<std::string>("format", "gptq"));
}

// GPTQModel gives the modules that match a pattern other settings.
std::vector<NamedWidth> gptq_widths(const Settings& settings) {
  const auto bits = json_required<int64_t>(settings.json, "bits", settings.label);
  const auto group = settings.value<int64_t>("group_size", -1);
  std::vector<NamedWidth> widths{checked_width(settings, bits, group)};
  const auto dynamic = settings.json.find("dynamic");
  if (dynamic == settings.json.end() || !dynamic->is_object()) return widths;
  for (const auto& [pattern, other] : dynamic->items())
    if (other.is_object() && !pattern.starts_with("-:"))
      widths.push_back(checked_width(settings, json_value<int64_t>(other, "bits", bits, settings.label),
                                     json_value<int64_t>(other, "group_size", group, settings.label)));
  return widths;
}

void check_gptq(const Settings& settings) {
  const std::string version = gptq_version(settings);
  if (version != "gptq" && version != "gptq_v2")
    settings.refuse("the checkpoint_format '" + version + "' of GPTQ is not read", "Save it as gptq or gptq_v2");
  if (const auto words = settings.value<std::string>("pack_dtype", "int32"); words != "int32")
    settings.refuse("GPTQ codes in words of the type " + words + " are not read");
  gptq_widths(settings);
}

std::optional<StoredWeight> find_gptq(const Settings& settings, const PartsOfWeight& weight) {
  const auto scheme = scheme_by_shapes(kGptqShapes, gptq_widths(settings), settings, weight);
  if (!scheme) return std::nullopt;
  if (settings.value<bool>("desc_act", false) && find_part(weight.parts, "g_idx") == nullptr)
    settings.refuse("desc_act is set, and the weight '" + std::string(weight.name) + "' has no g_idx");
  StoredWeight found{.scheme = *scheme, .format = &packed_format(gptq_version(settings))};
  const PackedFormat& v1 = packed_format("gptq");
  const PackedFormat& v2 = packed_format("gptq_v2");
  found.scheme.symmetric = zeros_in_the_middle(*found.format, *scheme, weight);
  // Several programs have written version 2 under the name of version 1. Where the settings say symmetric, the zero
  // points tell which it is.
  if (found.format == &v1 && settings.value<bool>("sym", false) && zeros_in_the_middle(v2, *scheme, weight)) {
    found.scheme.symmetric = true;
    found.format = &v2;
    found.problem =
        "the zero points are stored as checkpoint_format gptq_v2 has them, not as gptq, and are read so: the settings "
        "say 'sym'";
  }
  return found;
}

// ---- AWQ, as AutoAWQ, GPTQModel and AutoRound write it

constexpr std::array kAwqParts{StoredPart{"qweight", 1}, StoredPart{"qzeros", 1}, StoredPart{"scales", 1}};
constexpr Shapes kAwqShapes{"qweight", "scales",
                            [](int bits, int64_t rows, int64_t cols) {
                              return std::vector<int64_t>{cols, rows * bits / 32};
                            },
                            [](int64_t rows, int64_t groups) {
                              return std::vector<int64_t>{groups, rows};
                            }};

NamedWidth awq_width(const Settings& settings) {
  return checked_width(settings, json_required<int64_t>(settings.json, "bits", settings.label),
                       settings.value<int64_t>("group_size", -1));
}

void check_awq(const Settings& settings) {
  const auto version = settings.value<std::string>("version", "gemm");
  if (version != "gemm" && version != "GEMM")
    settings.refuse("the version '" + version + "' of AWQ is not read", "Save it as gemm");
  if (awq_width(settings).bits != 4) settings.refuse("AWQ weights of other than 4 bits are not read");
}

std::optional<StoredWeight> find_awq(const Settings& settings, const PartsOfWeight& weight) {
  const NamedWidth width = awq_width(settings);
  const auto scheme = scheme_by_shapes(kAwqShapes, {&width, 1}, settings, weight);
  if (!scheme) return std::nullopt;
  StoredWeight found{.scheme = *scheme, .format = &packed_format("awq")};
  found.scheme.symmetric = zeros_in_the_middle(*found.format, *scheme, weight);
  return found;
}

// ---- compressed-tensors, as llm-compressor writes it

constexpr std::array kCompressedParts{StoredPart{"weight_packed", 0}, StoredPart{"weight_scale", 0},
                                      StoredPart{"weight_zero_point", 0}, StoredPart{"weight_g_idx", -1},
                                      StoredPart{"weight_shape", -1}};
constexpr Shapes kCompressedShapes{"weight_packed", "weight_scale",
                                   [](int bits, int64_t rows, int64_t cols) {
                                     return std::vector<int64_t>{rows, (cols * bits + 31) / 32};
                                   },
                                   [](int64_t rows, int64_t groups) {
                                     return std::vector<int64_t>{rows, groups};
                                   }};

NamedWidth compressed_width(const Settings& settings, const Json& group) {
  const auto format =
      json_value<std::string>(group, "format", settings.value<std::string>("format", ""), settings.label);
  if (format != "pack-quantized")
    settings.refuse("the format '" + format + "' of compressed-tensors is not read", "Save it as pack-quantized");
  for (const char* key : {"input_activations", "output_activations"})
    if (const auto activations = group.find(key); activations != group.end() && !activations->is_null())
      settings.refuse(std::string("quantized activations (") + key + ") are not read");
  const auto weights = group.find("weights");
  if (weights == group.end() || !weights->is_object()) settings.refuse("a group of config_groups has no 'weights'");
  const auto type = json_value<std::string>(*weights, "type", "int", settings.label);
  if (type != "int") settings.refuse("weights of the type '" + type + "' are not read");
  const auto bits = json_required<int64_t>(*weights, "num_bits", settings.label);
  const auto strategy = json_required<std::string>(*weights, "strategy", settings.label);
  if (strategy == "channel") return checked_width(settings, bits, -1);
  if (strategy != "group") settings.refuse("the strategy '" + strategy + "' of compressed-tensors is not read");
  return checked_width(settings, bits, json_required<int64_t>(*weights, "group_size", settings.label));
}

std::vector<NamedWidth> compressed_widths(const Settings& settings) {
  const auto groups = settings.json.find("config_groups");
  if (groups == settings.json.end() || !groups->is_object())
    settings.refuse("quantization_config has no object 'config_groups'");
  std::vector<NamedWidth> widths;
  for (const Json& group : *groups) {
    if (!group.is_object()) settings.refuse("a group of config_groups is not an object");
    widths.push_back(compressed_width(settings, group));
  }
  return widths;
}

void check_compressed(const Settings& settings) {
  const auto status = settings.value<std::string>("quantization_status", "compressed");
  if (status != "compressed") settings.refuse("the quantization_status is '" + status + "', not 'compressed'");
  for (const char* key : {"sparsity_config", "transform_config"})
    if (const auto other = settings.json.find(key); other != settings.json.end() && !other->empty())
      settings.refuse(std::string("a ") + key + " is not read");
  if (const auto cache = settings.json.find("kv_cache_scheme"); cache != settings.json.end() && !cache->is_null())
    settings.refuse("a kv_cache_scheme is not read");
  compressed_widths(settings);
}

std::optional<StoredWeight> find_compressed(const Settings& settings, const PartsOfWeight& weight) {
  const auto scheme = scheme_by_shapes(kCompressedShapes, compressed_widths(settings), settings, weight);
  if (!scheme) return std::nullopt;
  if (find_part(weight.parts, "weight_shape") != nullptr) {
    const std::string subject = settings.label + " weight '" + std::string(weight.name) + "'";
    const auto sizes = values_of<int64_t>(require_part(weight.parts, "weight_shape", DType::kI64, {2}, subject));
    if (sizes[0] != weight.rows || sizes[1] != weight.cols)
      settings.refuse("weight_shape of '" + std::string(weight.name) + "' is " + Json(sizes).dump() +
                      ", not the shape " + "that config.json asks for");
  }
  StoredWeight found{.scheme = *scheme, .format = &packed_format("compressed-tensors")};
  found.scheme.symmetric = find_part(weight.parts, "weight_zero_point") == nullptr;
  return found;
}

constexpr std::array kMethods{
    StoredMethod{"retort", "native", false, kNativeParts, "scales", check_native, find_native},
    StoredMethod{"gptq", "gptq", true, kGptqParts, "scales", check_gptq, find_gptq},
    StoredMethod{"awq", "awq", true, kAwqParts, "scales", check_awq, find_awq},
    StoredMethod{"compressed-tensors", "compressed-tensors", true, kCompressedParts, "weight_scale", check_compressed,
                 find_compressed},
};

// ---- rows of stored parts

int row_axis_of(const StoredMethod& method, const PackedPartView& part) {
  return std::ranges::find(method.parts, part.name, &StoredPart::name)->row_axis;
}

// Parts that hold several rows in an element are cut where every width and layout has whole elements.
int64_t row_step(const StoredMethod& method, int bits, int64_t rows, std::span<const PackedPartView> parts) {
  bool packed = false;
  for (const PackedPartView& view : parts)
    for (const StoredPart& part : method.parts)
      if (part.name == view.name && part.row_axis >= 0 && view.shape.size() == 2)
        packed = packed || view.shape[static_cast<size_t>(part.row_axis)] != rows;
  return !packed ? 1 : bits == 3 ? 32 : 16;
}

// The rows [first, last) of `whole` of a part of this shape, which `buffer` may come to hold.
PackedPartView cut_part(const PackedPartView& whole, int axis, int64_t rows, int64_t first, int64_t last,
                        std::vector<std::byte>& buffer, std::string_view subject) {
  PackedPartView part = whole;
  const int64_t extent = whole.shape[static_cast<size_t>(axis)];
  // Any 32 rows are whole bytes or words of every layout.
  if (extent > static_cast<int64_t>(whole.bytes.size()) || extent * 32 % rows != 0)
    fail("unpack", subject,
         "the part '" + std::string(whole.name) + "' of " + std::to_string(extent) + " does not divide among " +
             std::to_string(rows) + " rows");
  const int64_t begin = first * extent / rows, end = last == rows ? extent : last * extent / rows;
  const auto row_bytes = static_cast<size_t>(whole.shape[1]) * size_of(whole.dtype);
  part.shape[static_cast<size_t>(axis)] = end - begin;
  if (axis == 0) {
    part.bytes =
        whole.bytes.subspan(static_cast<size_t>(begin) * row_bytes, static_cast<size_t>(end - begin) * row_bytes);
    return part;
  }
  const size_t from = static_cast<size_t>(begin) * size_of(whole.dtype);
  const size_t count = static_cast<size_t>(end - begin) * size_of(whole.dtype);
  buffer.reserve(static_cast<size_t>(whole.shape[0]) * count);
  for (size_t row = 0; row < static_cast<size_t>(whole.shape[0]); ++row) {
    const auto run = whole.bytes.subspan(row * row_bytes + from, count);
    buffer.insert(buffer.end(), run.begin(), run.end());
  }
  part.bytes = buffer;
  return part;
}

// Of a plain scheme: blocks are never packed along the rows.
QuantizedMatrix cut_rows(QuantizedMatrix m, int64_t first, int64_t count) {
  if (first == 0 && count == m.rows) return m;
  const auto cut = [&](auto& values) {
    const auto per_row = static_cast<int64_t>(values.size()) / m.rows;
    values = {values.begin() + first * per_row, values.begin() + (first + count) * per_row};
  };
  cut(m.codes);
  cut(m.scales);
  cut(m.zeros);
  cut(m.outliers);
  m.rows = count;
  return m;
}

}  // namespace

StoredQuantization::StoredQuantization(const ModelConfig& config, const std::string& label)
    : config_(config), label_(label) {
  const auto settings = config.json.find("quantization_config"), mlx = config.json.find("quantization");
  const bool named = settings != config.json.end() && settings->is_object() && settings->contains("quant_method");
  if (!named && mlx != config.json.end() && mlx->is_object())
    fail("checkpoint", label, "it is quantized for MLX, which `retort verify` alone reads",
         "Use the model that it was exported from");
  if (settings == config.json.end() || settings->is_null()) return;
  if (!settings->is_object()) fail("checkpoint", label, "quantization_config is not an object");
  settings_ = &*settings;
  const auto name = json_value<std::string>(*settings, "quant_method", "(unnamed)", label);
  method_ = std::ranges::find(kMethods, name, &StoredMethod::name);
  if (method_ == kMethods.end()) fail("checkpoint", label, "checkpoints quantized by '" + name + "' are not read");
  method_->check({*settings_, config_, label_});
}

std::string_view StoredQuantization::container() const { return present() ? method_->container : "huggingface"; }

std::span<const StoredPart> StoredQuantization::parts() const {
  return present() ? method_->parts : std::span<const StoredPart>();
}

std::string StoredQuantization::part_name(std::string_view weight, const StoredPart& part) const {
  if (method_->replaces_weight) weight = weight.substr(0, weight.rfind('.'));
  return std::string(weight) + "." + std::string(part.name);
}

std::optional<StoredWeight> StoredQuantization::find(std::string_view weight, int64_t rows, int64_t cols,
                                                     std::span<const PackedPartView> parts) const {
  if (!present()) return std::nullopt;
  auto found = method_->find({*settings_, config_, label_}, {weight, rows, cols, parts});
  if (found) found->f16_scales = holds_f16(find_part(parts, method_->scales));
  return found;
}

QuantizedMatrix StoredQuantization::unpack(const StoredWeight& weight, int64_t rows, int64_t cols,
                                           std::span<const PackedPartView> parts, int64_t first, int64_t count,
                                           std::string_view subject) const {
  const int64_t step = row_step(*method_, weight.scheme.bits, rows, parts);
  const int64_t begin = first - first % step, end = std::min(rows, (first + count + step - 1) / step * step);
  std::vector<PackedPartView> views;
  std::vector<std::vector<std::byte>> buffers(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    const int axis = row_axis_of(*method_, parts[i]);
    const bool whole = axis < 0 || (begin == 0 && end == rows);
    if (!whole && parts[i].shape.size() != 2)
      fail("unpack", subject, "the part '" + std::string(parts[i].name) + "' is not a matrix");
    views.push_back(whole ? parts[i] : cut_part(parts[i], axis, rows, begin, end, buffers[i], subject));
  }
  return cut_rows(weight.format->unpack(weight.scheme, end - begin, cols, views, subject), first - begin, count);
}

uint64_t StoredQuantization::bytes_read(int64_t rows, std::span<const PackedPartView> parts, int64_t first,
                                        int64_t count) const {
  uint64_t bytes = 0;
  for (const PackedPartView& part : parts)
    if (row_axis_of(*method_, part) == 0)
      bytes += part.bytes.size() * static_cast<uint64_t>(count) / static_cast<uint64_t>(rows);
    else if (first == 0 || first + count == rows)
      bytes += part.bytes.size();
  return bytes;
}

}  // namespace retort
