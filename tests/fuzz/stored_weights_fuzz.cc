// Checkpoints that other programs quantized: any quantization_config with any parts gives a matrix whose codes are in
// range, or an Error. An input is the JSON of quantization_config up to a zero byte, then for each part of the method
// a control byte (0: absent; type, number of dimensions), its sizes as 16 bits each, and its data.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/checkpoint/stored_weights.h"

namespace {

constexpr int64_t kRows = 64, kCols = 96;
constexpr size_t kMostBytes = 1 << 16;
constexpr std::string_view kWeight = "model.layers.0.mlp.up_proj.weight";
constexpr std::string_view kConfig = R"({"model_type": "llama", "vocab_size": 32, "hidden_size": 96,
  "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu"})";

struct Input {
  std::span<const std::byte> bytes;
  std::span<const std::byte> take(size_t count) {
    const auto taken = bytes.first(std::min(count, bytes.size()));
    bytes = bytes.subspan(taken.size());
    return taken;
  }
  int64_t number(size_t width) {
    int64_t value = 0;
    const auto taken = take(width);
    std::memcpy(&value, taken.data(), taken.size());
    return value;
  }
};

// Safetensors files hold as many bytes as shape and type need: so do these.
std::optional<retort::PackedPartView> next_part(Input& input, std::string_view name, std::vector<std::byte>& data) {
  using retort::DType;
  constexpr std::array kTypes{DType::kI32, DType::kF16, DType::kBF16, DType::kF32,
                              DType::kI64, DType::kU8,  DType::kI8,   DType::kI16};
  const int64_t control = input.number(1);
  if (control == 0) return std::nullopt;
  retort::PackedPartView part{name, kTypes[static_cast<size_t>(control & 7)], {}, {}};
  size_t bytes = retort::size_of(part.dtype);
  for (int64_t i = 0; i < (control >> 3 & 3); ++i) {
    part.shape.push_back(input.number(2));
    bytes *= static_cast<size_t>(part.shape.back());
  }
  if (bytes > kMostBytes) return std::nullopt;
  data.resize(bytes);
  std::ranges::copy(input.take(bytes), data.begin());
  part.bytes = data;
  return part;
}

void read(const retort::StoredQuantization& quantization, Input& input) {
  std::vector<std::vector<std::byte>> data(quantization.parts().size());
  std::vector<retort::PackedPartView> parts;
  for (size_t i = 0; i < data.size(); ++i)
    if (const auto part = next_part(input, quantization.parts()[i].name, data[i])) parts.push_back(*part);
  const auto weight = quantization.find(kWeight, kRows, kCols, parts);
  if (!weight || parts.empty()) return;
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, kRows}, {3, 1}, {40, 24}}) {
    const auto matrix = quantization.unpack(*weight, kRows, kCols, parts, first, count, "fuzz");
    retort::check_integers(matrix, "fuzz");
    if (matrix.rows != count || matrix.cols != kCols) __builtin_trap();
    std::vector<float> values(static_cast<size_t>(count * kCols));
    retort::dequantize_rows(matrix, 0, count, values);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    Input input{std::as_bytes(std::span(data, size))};
    const auto end = std::ranges::find(input.bytes, std::byte{0});
    const auto text = input.take(static_cast<size_t>(end - input.bytes.begin()));
    input.take(1);
    retort::Json json = retort::parse_json(kConfig, "fuzz");
    json["quantization_config"] =
        retort::parse_json({reinterpret_cast<const char*>(text.data()), text.size()}, "fuzz");
    const retort::ModelConfig config = retort::parse_config(json, "fuzz");
    const std::string label = "fuzz";
    const retort::StoredQuantization quantization(config, label);
    if (quantization.present()) read(quantization, input);
  } catch (const retort::Error&) {
  }
  return 0;
}
