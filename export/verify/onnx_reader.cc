// The weights of an exported ONNX directory, by the definition of MatMulNBits in ONNX Runtime's operator list.
#include <cstring>

#include "core/base/error.h"
#include "core/base/files.h"
#include "export/verify/artifact.h"
#include "export/verify/onnx_wire.h"

namespace retort {
namespace {

constexpr const char* kDataFile = "model.onnx.data";

std::optional<DType> type_of(int64_t onnx_number) {
  switch (onnx_number) {
    case 1: return DType::kF32;
    case 2: return DType::kU8;
    case 10: return DType::kF16;
    case 16: return DType::kBF16;
    default: return std::nullopt;
  }
}

struct Blocks {
  int64_t bits, block, count;  // of a row
};

class OnnxArtifact : public ArtifactReader {
 public:
  explicit OnnxArtifact(const std::filesystem::path& directory)
      : label_((directory / "model.onnx").string()),
        data_(directory / kDataFile),
        list_(parse_onnx_weights(MappedFile(directory / "model.onnx").bytes(), label_)),
        files_(read_side_files(directory)) {}

  std::string_view format() const override { return "onnx"; }
  std::span<const SideFile> side_files() const override { return files_; }
  std::unique_ptr<Tokenizer> tokenizer() const override { return tokenizer_from_side_files(files_, label_); }
  std::string chat_template() const override { return chat_template_of_side_files(files_, label_); }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    if (list_.initializers.contains(expected.name + ".codes")) return read_integers(expected);
    const OnnxInitializer& weight = require(expected, expected.name);
    const auto type = type_of(weight.data_type);
    if (!type || weight.dims != expected.shape)
      fail_artifact(expected, "it has another type or shape than in the model");
    return dense_artifact(expected, *type, bytes_of(expected, weight));
  }

 private:
  const OnnxInitializer& require(const ExpectedTensor& expected, const std::string& name) const {
    const auto found = list_.initializers.find(name);
    if (found == list_.initializers.end()) fail_artifact(expected, "the artifact has no " + name);
    return found->second;
  }

  std::span<const std::byte> bytes_of(const ExpectedTensor& expected, const OnnxInitializer& weight) const {
    const auto file = data_.bytes();
    if (weight.location != kDataFile || weight.offset > file.size() || weight.length > file.size() - weight.offset)
      fail_artifact(expected, "its data lie outside " + std::string(kDataFile));
    return file.subspan(weight.offset, weight.length);
  }

  // A part of an integer weight: its bytes, when type and shape are those that the operator asks for.
  std::span<const std::byte> part(const ExpectedTensor& expected, const char* suffix, DType type,
                                  const std::vector<int64_t>& shape) const {
    const OnnxInitializer& weight = require(expected, expected.name + suffix);
    size_t bytes = size_of(type);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    const auto data = bytes_of(expected, weight);
    if (type_of(weight.data_type) != type || weight.dims != shape || data.size() != bytes)
      fail_artifact(expected, std::string(suffix) + " has another type or shape than MatMulNBits needs");
    return data;
  }

  // From the operators that use the weight, which must agree with its shape; an embedding may have none.
  Blocks blocks_of(const ExpectedTensor& expected) const {
    const OnnxInitializer& codes = require(expected, expected.name + ".codes");
    if (codes.dims.size() != 3) fail_artifact(expected, "its codes have not three dimensions");
    const int64_t count = codes.dims[1], bytes = codes.dims[2], cols = cols_of(expected);
    for (const int64_t bits : {8, 4, 2}) {
      const int64_t block = bytes * 8 / bits;
      if (block < 16 || block > 256 || (cols + block - 1) / block != count || !used_as(expected, bits, block)) continue;
      return {bits, block, count};
    }
    fail_artifact(expected, "the operators that use it say another width, block or shape than its codes have");
  }

  bool used_as(const ExpectedTensor& expected, int64_t bits, int64_t block) const {
    const std::map<std::string, int64_t> right{
        {"K", cols_of(expected)}, {"N", rows_of(expected)}, {"bits", bits}, {"block_size", block}};
    for (const OnnxIntegerProduct& product : list_.products) {
      if (product.inputs.size() < 3 || product.inputs[1] != expected.name + ".codes") continue;
      for (const auto& [name, value] : right)
        if (!product.attributes.contains(name) || product.attributes.at(name) != value) return false;
      const bool zeros = list_.initializers.contains(expected.name + ".zeros");
      if (product.inputs[2] != expected.name + ".scales" || product.inputs.size() != (zeros ? 4 : 3)) return false;
      if (zeros && product.inputs[3] != expected.name + ".zeros") return false;
    }
    return true;
  }

  static int value_at(std::span<const std::byte> row, int64_t index, int64_t bits) {
    const int64_t per_byte = 8 / bits;
    const int byte = std::to_integer<int>(row[static_cast<size_t>(index / per_byte)]);
    return (byte >> (bits * (index % per_byte))) % (1 << bits);
  }

  ArtifactTensor read_integers(const ExpectedTensor& expected) const {
    const auto [bits, block, count] = blocks_of(expected);
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    tensor.groups = count;
    const int64_t row_bytes = count * block * bits / 8, zero_bytes = (count * bits + 7) / 8;
    const auto codes = part(expected, ".codes", DType::kU8, {tensor.rows, count, block * bits / 8});
    const auto scales = part(expected, ".scales", DType::kF32, {tensor.rows, count});
    std::span<const std::byte> zeros;
    if (list_.initializers.contains(expected.name + ".zeros"))
      zeros = part(expected, ".zeros", DType::kU8, {tensor.rows, zero_bytes});
    for (int64_t c = 0; c < tensor.cols; ++c) tensor.column_group.push_back(static_cast<int32_t>(c / block));
    tensor.levels.resize(static_cast<size_t>(tensor.rows * tensor.cols));
    for (int64_t r = 0; r < tensor.rows; ++r)
      for (int64_t c = 0; c < tensor.cols; ++c) {
        const int zero = zeros.empty() ? 1 << (bits - 1)
                                       : value_at(zeros.subspan(static_cast<size_t>(r * zero_bytes)), c / block, bits);
        tensor.levels[static_cast<size_t>(r * tensor.cols + c)] =
            static_cast<int16_t>(value_at(codes.subspan(static_cast<size_t>(r * row_bytes)), c, bits) - zero);
      }
    for (int64_t i = 0; i < tensor.rows * count; ++i) tensor.scales.push_back(scale_bits(expected, scales, i));
    return tensor;
  }

  // Scales are f16 numbers that are stored as f32.
  static uint16_t scale_bits(const ExpectedTensor& expected, std::span<const std::byte> scales, int64_t index) {
    float scale = 0;
    std::memcpy(&scale, scales.data() + static_cast<size_t>(index) * sizeof scale, sizeof scale);
    const uint16_t bits = f32_to_f16(scale);
    const float back = f16_to_f32(bits);
    if (std::memcmp(&back, &scale, sizeof scale) != 0) fail_artifact(expected, "a scale is no f16 number");
    return bits;
  }

  std::string label_;
  MappedFile data_;
  OnnxWeightList list_;
  std::vector<SideFile> files_;
};

}  // namespace

std::unique_ptr<ArtifactReader> open_onnx_artifact(const std::filesystem::path& directory) {
  return std::make_unique<OnnxArtifact>(directory);
}

}  // namespace retort
