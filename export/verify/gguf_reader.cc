// GGUF blocks by their definition in ggml-common.h, rows back in the order of the checkpoint.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "core/base/error.h"
#include "core/checkpoint/gguf.h"
#include "export/verify/artifact.h"

namespace retort {
namespace {

constexpr int64_t kWeights = 32;  // of a block
constexpr uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ8_0 = 8, kBF16 = 30;

int level_q4_0(const uint8_t* quants, int64_t j) {
  return (j < kWeights / 2 ? quants[j] % 16 : quants[j - kWeights / 2] / 16) - 8;
}
int level_q8_0(const uint8_t* quants, int64_t j) { return static_cast<int8_t>(quants[j]); }

class GgufArtifact : public ArtifactReader {
 public:
  GgufArtifact(const std::filesystem::path& path, const ModelConfig& config)
      : file_(path), source_(open_model(path)), config_(config) {
    for (const GgufTensorInfo& info : file_.header().tensors) by_name_.emplace(info.name, &info);
  }

  std::string_view format() const override { return "gguf"; }
  std::unique_ptr<Tokenizer> tokenizer() const override { return source_->tokenizer(); }
  std::string chat_template() const override {
    return file_.header().string("tokenizer.chat_template").value_or(std::string());
  }

  // llama.cpp knows no windows in these architectures: a file of such a model has a shorter context instead.
  std::vector<ConfigNumber> numbers() const override {
    std::vector<ConfigNumber> numbers = numbers_of(source_->config(), "metadata");
    const bool windowed = std::ranges::any_of(config_.windows, [](int64_t window) { return window != 0; });
    std::erase_if(numbers, [&](const ConfigNumber& number) {
      return windowed && (number.name == "windows" || number.name == "context length");
    });
    return numbers;
  }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    const GgufTensorInfo& info = find(expected);
    if (info.shape != expected.shape) fail_artifact(expected, "it has another shape than in the model");
    switch (info.type) {
      case kF32: return read_dense(expected, info, DType::kF32);
      case kF16: return read_dense(expected, info, DType::kF16);
      case kBF16: return read_dense(expected, info, DType::kBF16);
      case kQ4_0: return read_blocks(expected, info, 18, level_q4_0);
      case kQ8_0: return read_blocks(expected, info, 34, level_q8_0);
      default: fail_artifact(expected, "it has a type that export does not write");
    }
  }

 private:
  const GgufTensorInfo& find(const ExpectedTensor& expected) const {
    const std::string name = gguf_name(*expected.rule, expected.layer);
    if (const auto found = by_name_.find(name); found != by_name_.end()) return *found->second;
    fail_artifact(expected, "the artifact has no " + name);
  }

  // Where the checkpoint's row `row` lies: rotary pairs are neighbours in GGUF, half a head apart in the checkpoint.
  int64_t stored_row(const ExpectedTensor& expected, int64_t row) const {
    const Role role = expected.rule->role;
    if (!config_.family->gguf_interleaved_rope || (role != Role::kQuery && role != Role::kKey)) return row;
    const int64_t half = config_.head_dim / 2, in_head = row % config_.head_dim;
    return row - in_head + 2 * (in_head % half) + in_head / half;
  }

  ArtifactTensor read_dense(const ExpectedTensor& expected, const GgufTensorInfo& info, DType type) const {
    ArtifactTensor tensor = dense_artifact(expected, type, file_.data(info));
    const size_t row_bytes = static_cast<size_t>(tensor.cols) * size_of(type);
    for (int64_t r = 0; r < tensor.rows; ++r)
      std::memcpy(tensor.bytes.data() + static_cast<size_t>(r) * row_bytes,
                  file_.data(info).data() + static_cast<size_t>(stored_row(expected, r)) * row_bytes, row_bytes);
    return tensor;
  }

  ArtifactTensor read_blocks(const ExpectedTensor& expected, const GgufTensorInfo& info, int64_t block_bytes,
                             int (*level)(const uint8_t*, int64_t)) const {
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    tensor.groups = tensor.cols / kWeights;
    if (file_.data(info).size() != static_cast<size_t>(tensor.rows * tensor.groups * block_bytes))
      fail_artifact(expected, "its rows are not whole blocks");
    tensor.levels.resize(static_cast<size_t>(tensor.rows * tensor.cols));
    tensor.scales.resize(static_cast<size_t>(tensor.rows * tensor.groups));
    for (int64_t c = 0; c < tensor.cols; ++c) tensor.column_group.push_back(static_cast<int32_t>(c / kWeights));
    const auto* data = reinterpret_cast<const uint8_t*>(file_.data(info).data());
    for (int64_t i = 0; i < tensor.rows * tensor.groups; ++i) {
      const int64_t row = i / tensor.groups, group = i % tensor.groups;
      const uint8_t* block = data + (stored_row(expected, row) * tensor.groups + group) * block_bytes;
      tensor.scales[static_cast<size_t>(i)] = static_cast<uint16_t>(block[0] + 256 * block[1]);
      for (int64_t j = 0; j < kWeights; ++j)
        tensor.levels[static_cast<size_t>(i * kWeights + j)] = static_cast<int16_t>(level(block + 2, j));
    }
    return tensor;
  }

  GgufFile file_;
  std::unordered_map<std::string, const GgufTensorInfo*> by_name_;
  std::unique_ptr<ModelSource> source_;
  const ModelConfig& config_;
};

}  // namespace

std::unique_ptr<ArtifactReader> open_gguf_artifact(const std::filesystem::path& path, const ModelConfig& config) {
  return std::make_unique<GgufArtifact>(path, config);
}

}  // namespace retort
