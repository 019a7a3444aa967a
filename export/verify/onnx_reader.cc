// The weights of an exported ONNX directory, by the definitions of the operators that use them: MatMulNBits and
// GatherBlockQuantized in ONNX Runtime's list, DequantizeLinear in ONNX's.
#include <algorithm>
#include <cstring>
#include <iterator>

#include "core/base/error.h"
#include "core/base/files.h"
#include "export/verify/artifact.h"
#include "export/verify/onnx_array.h"
#include "export/verify/onnx_evaluation.h"
#include "export/verify/onnx_numbers.h"
#include "export/verify/onnx_wire.h"
#include "export/verify/rounding.h"
#include "export/verify/settings.h"

namespace retort {
namespace {

constexpr const char* kDataFile = "model.onnx.data";
constexpr uint64_t kAlignment = 64;     // of each tensor in the data file
constexpr int64_t kLargestBlock = 256;  // of MatMulNBits

std::optional<DType> type_of(int64_t onnx_number) {
  switch (onnx_number) {
    case 1: return DType::kF32;
    case 10: return DType::kF16;
    case 16: return DType::kBF16;
    default: return std::nullopt;
  }
}

// Where the code, scale and zero point of a weight's element lie, and how they are read.
struct Layout {
  int64_t bits = 0, block = 0, blocks = 0;
  bool is_signed = false;    // codes are levels already
  int64_t row = 0, col = 1;  // distances of neighbours in the codes, in elements
  int64_t scale_row = 0, scale_col = 1;
  int64_t zero_row = 0, zero_col = 1;
  int64_t code_type = kOnnxU8;
  std::vector<int64_t> code_dims, scale_dims, zero_dims;
};

class OnnxArtifact : public ArtifactReader {
 public:
  OnnxArtifact(const std::filesystem::path& directory, const ModelConfig& config)
      : directory_(directory),
        config_(config),
        label_((directory / "model.onnx").string()),
        data_(directory / kDataFile),
        parts_(parse_onnx_parts(MappedFile(directory / "model.onnx").bytes(), label_)),
        files_(read_side_files(directory)) {
    for (const OnnxNode& node : parts_.nodes)
      for (const std::string& input : node.inputs) users_[input].push_back(&node);
  }

  std::string_view format() const override { return "onnx"; }
  std::span<const SideFile> side_files() const override { return files_; }
  std::unique_ptr<Tokenizer> tokenizer() const override { return tokenizer_from_side_files(files_, label_); }
  ChatTemplates chat_templates() const override { return chat_templates_of_side_files(files_, label_); }

  std::vector<ConfigNumber> numbers() const override {
    std::vector<ConfigNumber> numbers = numbers_of_graph(parts_);
    std::ranges::move(numbers_of_directory(directory_), std::back_inserter(numbers));
    const auto genai = directory_ / "genai_config.json";
    std::ranges::move(numbers_of_genai(read_json_file(genai), "genai_config.json"), std::back_inserter(numbers));
    return numbers;
  }

  std::vector<std::string> setting_differences(const ModelSource& model) const override {
    auto lines = config_differences(read_json_file((directory_ / "config.json").string()), model);
    const bool shares_cache =
        std::ranges::any_of(parts_.nodes, [](const OnnxNode& node) { return node.type == "GroupQueryAttention"; });
    append(lines, genai_differences(read_json_file((directory_ / "genai_config.json").string()), model, shares_cache));
    return lines;
  }

  std::vector<float> logits(std::span<const int32_t> ids, Context& context) const override {
    return evaluate_onnx(directory_, config_, ids, context);
  }

  // Tensors begin at whole multiples of the alignment; what a gap has beyond that is nobody's.
  int64_t unclaimed_bytes() const override {
    const uint64_t size = data_.bytes().size();
    std::vector<std::pair<uint64_t, uint64_t>> places;
    for (const auto& [name, weight] : parts_.initializers)
      if (!weight.location.empty() && users_.contains(name) && weight.offset <= size &&
          weight.length <= size - weight.offset)
        places.emplace_back(weight.offset, weight.offset + weight.length);
    std::ranges::sort(places);
    places.emplace_back(size, 0);
    uint64_t end = 0, unclaimed = 0;
    for (const auto& [begin, next] : places) {
      const uint64_t padded = (end + kAlignment - 1) / kAlignment * kAlignment;
      if (begin > end && begin != padded) unclaimed += begin - end;
      end = std::max(end, next);
    }
    return static_cast<int64_t>(unclaimed);
  }

  Json self() const override { return self_of_directory(directory_); }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    if (parts_.initializers.contains(expected.name + ".codes")) return read_integers(expected);
    const OnnxInitializer& weight = require(expected, expected.name);
    const auto type = type_of(weight.data_type);
    if (!type || weight.dims != expected.shape)
      fail_artifact(expected, "it has another type or shape than in the model");
    return dense_artifact(expected, *type, bytes_of(expected, weight));
  }

 private:
  const OnnxInitializer& require(const ExpectedTensor& expected, const std::string& name) const {
    const auto found = parts_.initializers.find(name);
    if (found == parts_.initializers.end()) fail_artifact(expected, "the artifact has no " + name);
    return found->second;
  }

  std::span<const std::byte> bytes_of(const ExpectedTensor& expected, const OnnxInitializer& weight) const {
    const auto file = data_.bytes();
    if (weight.location != kDataFile || weight.offset > file.size() || weight.length > file.size() - weight.offset)
      fail_artifact(expected, "its data lie outside " + std::string(kDataFile));
    return file.subspan(weight.offset, weight.length);
  }

  // A part of an integer weight: its bytes, when type and shape are those that the operator asks for.
  std::span<const std::byte> part(const ExpectedTensor& expected, const char* suffix, int64_t type, int64_t bits,
                                  const std::vector<int64_t>& dims) const {
    const OnnxInitializer& weight = require(expected, expected.name + suffix);
    int64_t elements = 1;
    for (const int64_t size : dims) elements *= size;
    const auto data = bytes_of(expected, weight);
    if (weight.data_type != type || weight.dims != dims ||
        data.size() != static_cast<size_t>((elements * bits + 7) / 8))
      fail_artifact(expected, std::string(suffix) + " has another type or shape than its operator needs");
    return data;
  }

  bool has_zeros(const ExpectedTensor& expected) const {
    return parts_.initializers.contains(expected.name + ".zeros");
  }

  // Whether every node of that type which reads `weight` has these attributes, and scales and zero points beside it.
  bool used_as(const ExpectedTensor& expected, const char* type, const std::string& weight, size_t first_part,
               const std::map<std::string, int64_t>& attributes) const {
    const auto users = users_.find(weight);
    if (users == users_.end()) return false;
    const std::string zeros = has_zeros(expected) ? expected.name + ".zeros" : std::string();
    for (const OnnxNode* node : users->second) {
      if (node->type != type) return false;
      for (const auto& [name, value] : attributes)
        if (!node->integers.contains(name) || node->integers.at(name) != value) return false;
      const auto input = [&](size_t i) { return i < node->inputs.size() ? node->inputs[i] : std::string(); };
      if (input(first_part) != expected.name + ".scales" || input(first_part + 1) != zeros) return false;
    }
    return true;
  }

  [[noreturn]] static void fail_use(const ExpectedTensor& expected) {
    fail_artifact(expected, "the operators that use it say another width, block or shape than its codes have");
  }

  // [out, blocks, bytes]: MatMulNBits, and for an embedding also its rows. The arithmetic of standard operators on an
  // embedding is not followed.
  Layout blob_layout(const ExpectedTensor& expected, const OnnxInitializer& codes) const {
    const int64_t rows = rows_of(expected), cols = cols_of(expected);
    const int64_t count = codes.dims[1], bytes = codes.dims[2];
    if (bytes < 1 || bytes > kLargestBlock) fail_use(expected);
    for (const int64_t bits : {8, 4, 2}) {
      const int64_t block = bytes * 8 / bits;
      if (block < 16 || block > kLargestBlock || (cols + block - 1) / block != count) continue;
      if (!blob_used_as(expected, codes, bits, block)) continue;
      const int64_t per_byte = 8 / bits, zero_bytes = (count + per_byte - 1) / per_byte;
      Layout layout{.bits = bits,
                    .block = block,
                    .blocks = count,
                    .row = count * block,
                    .scale_row = count,
                    .zero_row = zero_bytes * per_byte,
                    .code_dims = {rows, count, bytes},
                    .scale_dims = {rows, count},
                    .zero_dims = {rows, zero_bytes}};
      return layout;
    }
    fail_use(expected);
  }

  bool blob_used_as(const ExpectedTensor& expected, const OnnxInitializer& codes, int64_t bits, int64_t block) const {
    const std::string rows_name = expected.name + ".rows";
    const auto rows = parts_.initializers.find(rows_name);
    const bool gathered = users_.contains(rows_name);
    if (gathered && (rows == parts_.initializers.end() || rows->second.offset != codes.offset ||
                     rows->second.length != codes.length || rows->second.data_type != kOnnxU8 ||
                     rows->second.dims != std::vector{codes.dims[0], codes.dims[1] * codes.dims[2]} ||
                     !used_as(expected, "GatherBlockQuantized", rows_name, 2,
                              {{"bits", bits}, {"block_size", block}, {"gather_axis", 0}, {"quantize_axis", 1}})))
      return false;
    const std::string name = expected.name + ".codes";
    const bool arithmetic = expected.rule->role == Role::kEmbedding && !gathered;
    if (arithmetic || !users_.contains(name)) return arithmetic || gathered;
    return used_as(expected, "MatMulNBits", name, 2,
                   {{"K", cols_of(expected)}, {"N", rows_of(expected)}, {"bits", bits}, {"block_size", block}});
  }

  // [in, out]: DequantizeLinear in blocks along the input.
  Layout column_layout(const ExpectedTensor& expected, const OnnxInitializer& codes) const {
    const int64_t rows = rows_of(expected), cols = cols_of(expected);
    const auto users = users_.find(expected.name + ".codes");
    if (users == users_.end() || !users->second.front()->integers.contains("block_size")) fail_use(expected);
    const int64_t block = users->second.front()->integers.at("block_size");
    const int64_t type = codes.data_type, bits = type == kOnnxU4 || type == kOnnxI4 ? 4 : 8;
    const bool is_signed = type == kOnnxI4 || type == kOnnxI8;
    if ((!is_signed && type != kOnnxU4 && type != kOnnxU8) || is_signed == has_zeros(expected) || block < 1 ||
        block > cols ||
        !used_as(expected, "DequantizeLinear", expected.name + ".codes", 1, {{"axis", 0}, {"block_size", block}}))
      fail_use(expected);
    const int64_t count = (cols + block - 1) / block;
    return {.bits = bits,
            .block = block,
            .blocks = count,
            .is_signed = is_signed,
            .row = 1,
            .col = rows,
            .scale_row = 1,
            .scale_col = rows,
            .zero_row = 1,
            .zero_col = rows,
            .code_type = type,
            .code_dims = {cols, rows},
            .scale_dims = {count, rows},
            .zero_dims = {count, rows}};
  }

  static int value_at(std::span<const std::byte> values, int64_t index, int64_t bits) {
    const int64_t per_byte = 8 / bits;
    const int byte = std::to_integer<int>(values[static_cast<size_t>(index / per_byte)]);
    return (byte >> (bits * (index % per_byte))) % (1 << bits);
  }

  ArtifactTensor read_integers(const ExpectedTensor& expected) const {
    const OnnxInitializer& stored = require(expected, expected.name + ".codes");
    if (stored.dims.size() != 2 && stored.dims.size() != 3)
      fail_artifact(expected, "its codes have not two or three dimensions");
    const Layout at = stored.dims.size() == 3 ? blob_layout(expected, stored) : column_layout(expected, stored);
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    tensor.groups = at.blocks;
    const int64_t unit = at.code_dims.size() == 3 ? 8 : at.bits;  // of an element in the dimensions, in bits
    const auto codes = part(expected, ".codes", at.code_type, unit, at.code_dims);
    const auto scales = part(expected, ".scales", 1, 32, at.scale_dims);
    std::span<const std::byte> zeros;
    if (has_zeros(expected)) zeros = part(expected, ".zeros", at.code_type, unit, at.zero_dims);
    const int half = 1 << (at.bits - 1);
    for (int64_t c = 0; c < tensor.cols; ++c) tensor.column_group.push_back(static_cast<int32_t>(c / at.block));
    tensor.levels.reserve(static_cast<size_t>(tensor.rows * tensor.cols));
    for (int64_t r = 0; r < tensor.rows; ++r)
      for (int64_t c = 0; c < tensor.cols; ++c) {
        const int code = value_at(codes, r * at.row + c * at.col, at.bits);
        const int zero = zeros.empty() ? half : value_at(zeros, r * at.zero_row + c / at.block * at.zero_col, at.bits);
        const int level = at.is_signed ? (code ^ half) - half : code - zero;
        tensor.levels.push_back(static_cast<int16_t>(level));
      }
    tensor.scales.reserve(static_cast<size_t>(tensor.rows * at.blocks));
    for (int64_t r = 0; r < tensor.rows; ++r)
      for (int64_t b = 0; b < at.blocks; ++b)
        tensor.scales.push_back(number_at(
            DType::kF32, scales.data() + sizeof(float) * static_cast<size_t>(r * at.scale_row + b * at.scale_col)));
    return tensor;
  }

  std::filesystem::path directory_;
  const ModelConfig& config_;
  std::string label_;
  MappedFile data_;
  OnnxParts parts_;
  std::map<std::string, std::vector<const OnnxNode*>> users_;  // of each value
  std::vector<SideFile> files_;
};

}  // namespace

std::unique_ptr<ArtifactReader> open_onnx_artifact(const std::filesystem::path& directory, const ModelConfig& config) {
  return std::make_unique<OnnxArtifact>(directory, config);
}

}  // namespace retort
