// Directories of safetensors as verify reads them. Internal to export/verify.
#pragma once

#include <cstring>
#include <set>

#include "core/checkpoint/shard_set.h"
#include "export/verify/artifact.h"
#include "export/verify/rounding.h"
#include "export/verify/settings.h"

namespace retort {

// Dense tensors under their own names; the base of the readers of packed layouts.
class HfArtifact : public ArtifactReader {
 public:
  explicit HfArtifact(const std::filesystem::path& directory)
      : label_(directory.string()),
        tensors_(directory),
        files_(read_side_files(directory)),
        config_(read_json_file((directory / "config.json").string())) {}

  std::string_view format() const override { return "hf"; }
  std::span<const SideFile> side_files() const override { return files_; }
  std::unique_ptr<Tokenizer> tokenizer() const override { return tokenizer_from_side_files(files_, label_); }
  ChatTemplates chat_templates() const override { return chat_templates_of_side_files(files_, label_); }
  std::vector<ConfigNumber> numbers() const override { return numbers_of_directory(label_); }
  Json self() const override { return self_of_directory(label_); }
  std::optional<DType> loaded_type() const override { return parse_config(config_, label_).dtype; }
  std::vector<float> logits(std::span<const int32_t> ids, Context& context) const override {
    return plain_logits(loaded_config(), rows_of(*this), ids, context);
  }
  std::vector<std::string> setting_differences(const ModelSource& model) const override {
    return config_differences(config_, model);
  }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    const StoredTensor& stored = require(expected, expected.name);
    if (stored.info->shape != expected.shape) fail_artifact(expected, "it has another shape than in the model");
    return dense_artifact(expected, stored.info->dtype, stored.bytes());
  }

 protected:
  // As the programs that load it read it.
  virtual ModelConfig loaded_config() const { return parse_config(config_, label_); }
  const StoredTensor& require(const ExpectedTensor& expected, const std::string& name) const {
    const StoredTensor* stored = tensors_.find(name);
    if (stored == nullptr) fail_artifact(expected, "the artifact has no " + name);
    return *stored;
  }
  void check(const ExpectedTensor& expected, const StoredTensor& part, DType type,
             const std::vector<int64_t>& shape) const {
    if (part.info->dtype != type || part.info->shape != shape)
      fail_artifact(expected, part.info->name + " has another type or shape than the layout needs");
  }
  // Scales or biases: programs write them in any of these types.
  std::vector<float> floats(const ExpectedTensor& expected, const StoredTensor& part,
                            const std::vector<int64_t>& shape) const {
    const DType type = part.info->dtype;
    check(expected, part, type == DType::kBF16 || type == DType::kF32 ? type : DType::kF16, shape);
    std::vector<float> values(part.bytes().size() / size_of(type));
    for (size_t i = 0; i < values.size(); ++i) values[i] = number_at(type, part.bytes().data() + i * size_of(type));
    return values;
  }
  // Those of a layout that has the groups outside and the rows inside.
  std::vector<float> scales_by_group(const ExpectedTensor& expected, const StoredTensor& part, int64_t groups) const {
    const int64_t rows = rows_of(expected);
    const std::vector<float> stored = floats(expected, part, {groups, rows});
    std::vector<float> scales(stored.size());
    for (int64_t i = 0; i < rows * groups; ++i)
      scales[static_cast<size_t>(i)] = stored[static_cast<size_t>(i % groups * rows + i / groups)];
    return scales;
  }
  bool has(const std::string& name) const { return tensors_.find(name) != nullptr; }
  const Json& config() const { return config_; }
  // The modules of linear weights that do or do not have the tensor `part`, which is there where they are quantized.
  std::set<std::string> modules(const ModelSource& model, const std::string& part, bool with) const {
    std::set<std::string> names;
    for (const ExpectedTensor& expected : expected_tensors(model.config())) {
      const std::string base = expected.name.substr(0, expected.name.rfind('.'));
      const bool linear = expected.rule->input != Input::kNone && expected.rule->part == Part::kWeight;
      if (linear && has(base + "." + part) == with) names.insert(base);
    }
    return names;
  }
  // Of the list of modules that are not quantized; those that are have the tensor `part`. Beside the matrices of layers
  // the head is dense: Retort lists it always, other programs as they like.
  std::vector<std::string> list_differences(const ModelSource& model, const std::string& part,
                                            const std::set<std::string>& listed, const std::string& place) const {
    std::set<std::string> dense = modules(model, part, false);
    if (config_.contains("retort") || listed.contains("lm_head"))
      dense.insert("lm_head");
    else
      dense.erase("lm_head");
    return module_differences(listed, dense, place);
  }
  const StoredTensor& stored(const std::string& name) const { return *tensors_.find(name); }

 private:
  std::string label_;
  ShardSet tensors_;
  std::vector<SideFile> files_;
  Json config_;
};

// Values of `bits` bits, low bits first, in 32-bit words that lie `stride` words apart.
inline uint32_t packed_value(std::span<const std::byte> bytes, int64_t first, int64_t stride, int64_t index,
                             int64_t bits) {
  uint32_t value = 0;
  for (int64_t b = 0; b < bits; ++b) {
    const int64_t bit = index * bits + b;
    const int64_t byte = 4 * (first + bit / 32 * stride) + bit % 32 / 8;
    value |= (std::to_integer<uint32_t>(bytes[static_cast<size_t>(byte)]) >> (bit % 8) & 1u) << b;
  }
  return value;
}

template <typename T>
T value_at(std::span<const std::byte> bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + static_cast<size_t>(index) * sizeof value, sizeof value);
  return value;
}

}  // namespace retort
