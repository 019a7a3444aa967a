// GGUF blocks by their definition in ggml-common.h, rows back in the order of the checkpoint.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "core/base/error.h"
#include "core/checkpoint/gguf.h"
#include "export/verify/artifact.h"
#include "export/verify/gguf_blocks.h"

namespace retort {
namespace {

constexpr uint32_t kF32 = 0, kF16 = 1, kBF16 = 30;  // ggml's numbers

class GgufArtifact : public ArtifactReader {
 public:
  GgufArtifact(const std::filesystem::path& path, const ModelConfig& config)
      : file_(path), source_(open_model(path)), config_(config) {
    refuse_joined(source_->config().stored_as, path);
    for (const GgufTensorInfo& info : file_.header().tensors) by_name_.emplace(info.name, &info);
  }

  std::string_view format() const override { return "gguf"; }
  std::unique_ptr<Tokenizer> tokenizer() const override { return source_->tokenizer(); }
  ChatTemplates chat_templates() const override {
    const GgufHeader& header = file_.header();
    ChatTemplates templates;
    if (const auto text = header.string("tokenizer.chat_template"); text && !text->empty())
      templates["default"] = *text;
    if (const auto* names = header.strings("tokenizer.chat_templates"))
      for (const std::string& name : *names)
        templates[name] = header.string("tokenizer.chat_template." + name).value_or(std::string());
    return templates;
  }

  std::optional<std::vector<int64_t>> end_tokens() const override { return source_->config().eos_ids; }

  std::vector<ConfigNumber> numbers() const override {
    auto numbers = numbers_without_windows(numbers_of(source_->config(), "metadata"), config_);
    // BOS is that of the tokenizer, and compared with it.
    std::erase_if(numbers, [](const ConfigNumber& number) { return number.name == "BOS token"; });
    return numbers;
  }

  std::vector<float> logits(std::span<const int32_t> ids, Context& context) const override {
    return plain_logits(source_->config(), rows_of(*this), ids, context);
  }

  int64_t unclaimed_bytes() const override { return static_cast<int64_t>(file_.header().behind); }

  Json self() const override {
    Json self = json_value(source_->config().json, "retort", Json::object(), "retort");
    if (const auto* fallbacks = file_.header().strings("retort.fallbacks")) self["fallbacks"] = *fallbacks;
    return self;
  }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    const GgufTensorInfo& info = find(expected);
    if (info.shape != expected.shape) fail_artifact(expected, "it has another shape than in the model");
    switch (info.type) {
      case kF32: return read_dense(expected, info, DType::kF32);
      case kF16: return read_dense(expected, info, DType::kF16);
      case kBF16: return read_dense(expected, info, DType::kBF16);
      default: break;
    }
    const GgufBlockType* type = find_gguf_block_type(info.type);
    if (type == nullptr) fail_artifact(expected, "it has a type that export does not write");
    return read_blocks(expected, info, *type);
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

  ArtifactTensor read_blocks(const ExpectedTensor& expected, const GgufTensorInfo& info,
                             const GgufBlockType& type) const {
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    tensor.groups = tensor.cols / type.group;
    const int64_t blocks = tensor.cols / type.weights;
    if (tensor.cols % type.weights != 0 ||
        file_.data(info).size() != static_cast<size_t>(tensor.rows * blocks * type.bytes))
      fail_artifact(expected, "its rows are not whole blocks");
    tensor.levels.reserve(static_cast<size_t>(tensor.rows * tensor.cols));
    tensor.scales.reserve(static_cast<size_t>(tensor.rows * tensor.groups));
    if (type.minimum != nullptr) tensor.minima.reserve(static_cast<size_t>(tensor.rows * tensor.groups));
    for (int64_t c = 0; c < tensor.cols; ++c) tensor.column_group.push_back(static_cast<int32_t>(c / type.group));
    const auto* data = reinterpret_cast<const uint8_t*>(file_.data(info).data());
    for (int64_t i = 0; i < tensor.rows * blocks; ++i) {
      const uint8_t* block = data + (stored_row(expected, i / blocks) * blocks + i % blocks) * type.bytes;
      for (int64_t j = 0; j < type.weights; ++j) tensor.levels.push_back(static_cast<int16_t>(type.level(block, j)));
      for (int64_t g = 0; g < type.weights / type.group; ++g) {
        tensor.scales.push_back(type.scale(block, g));
        if (type.minimum != nullptr) tensor.minima.push_back(type.minimum(block, g));
      }
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
