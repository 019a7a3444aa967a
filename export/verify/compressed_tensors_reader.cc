// The words of compressed-tensors' pack-quantized by their definition.
#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/safetensors_artifact.h"

namespace retort {
namespace {

class CompressedTensorsArtifact : public HfArtifact {
 public:
  explicit CompressedTensorsArtifact(const std::filesystem::path& directory)
      : HfArtifact(directory), label_((directory / "config.json").string()) {
    settings_ = config().at("quantization_config");
    if (json_value<std::string>(settings_, "format", "", label_) != "pack-quantized")
      fail("verify", label_, "the format is not pack-quantized");
    const auto groups = settings_.find("config_groups");
    if (groups == settings_.end() || !groups->is_object() || groups->empty())
      fail("verify", label_, "there are no config_groups");
  }

  std::string_view format() const override { return "compressed-tensors"; }

  std::vector<std::string> setting_differences(const ModelSource& model) const override {
    auto lines = HfArtifact::setting_differences(model);
    append(lines, list_differences(model, "weight_packed", texts_of(settings_, "ignore"),
                                   "config.json: quantization_config: ignore"));
    return lines;
  }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    const std::string base = expected.name.substr(0, expected.name.rfind('.'));
    if (!expected.name.ends_with(".weight") || !has(base + ".weight_packed")) return HfArtifact::read(expected);
    const Json& weights = weights_of(expected, base);
    const auto bits = json_required<int64_t>(weights, "num_bits", label_);
    if (bits < 2 || bits > 8) fail_artifact(expected, "its num_bits are not 2 to 8");
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    const int64_t size = json_value<int64_t>(weights, "group_size", tensor.cols, label_);
    if (size < 1 || tensor.cols % size != 0) fail_artifact(expected, "its group_size does not divide its columns");
    tensor.groups = tensor.cols / size;
    for (int64_t c = 0; c < tensor.cols; ++c) tensor.column_group.push_back(static_cast<int32_t>(c / size));
    check(expected, require(expected, base + ".weight_shape"), DType::kI64, {2});
    const auto shape = require(expected, base + ".weight_shape").bytes();
    if (value_at<int64_t>(shape, 0) != tensor.rows || value_at<int64_t>(shape, 1) != tensor.cols)
      fail_artifact(expected, "its weight_shape is another than in the model");
    tensor.scales = floats(expected, require(expected, base + ".weight_scale"), {tensor.rows, tensor.groups});
    read_levels(expected, base, bits, json_required<bool>(weights, "symmetric", label_), tensor);
    return tensor;
  }

 private:
  // The settings of the group whose targets name the module, or all linear layers.
  const Json& weights_of(const ExpectedTensor& expected, const std::string& module) const {
    for (const Json& group : settings_["config_groups"]) {
      const auto targets = group.find("targets"), weights = group.find("weights");
      if (targets == group.end() || weights == group.end() || !weights->is_object()) continue;
      for (const Json& target : *targets)
        if (target == module || target == "Linear") return *weights;
    }
    fail_artifact(expected, "no group of config_groups names its module");
  }

  void read_levels(const ExpectedTensor& expected, const std::string& base, int64_t bits, bool symmetric,
                   ArtifactTensor& tensor) const {
    const int64_t words = (tensor.cols * bits + 31) / 32, zero_words = (tensor.rows * bits + 31) / 32;
    const StoredTensor& packed = require(expected, base + ".weight_packed");
    check(expected, packed, DType::kI32, {tensor.rows, words});
    const StoredTensor* zeros = symmetric ? nullptr : &require(expected, base + ".weight_zero_point");
    if (zeros != nullptr) check(expected, *zeros, DType::kI32, {zero_words, tensor.groups});
    const int64_t middle = int64_t{1} << (bits - 1);  // both are stored with it added
    std::vector<int64_t> row_zeros(static_cast<size_t>(tensor.groups));
    tensor.levels.reserve(static_cast<size_t>(tensor.rows * tensor.cols));
    for (int64_t r = 0; r < tensor.rows; ++r) {
      for (int64_t g = 0; g < tensor.groups && zeros != nullptr; ++g)
        row_zeros[static_cast<size_t>(g)] = packed_value(zeros->bytes(), g, tensor.groups, r, bits) - middle;
      for (int64_t c = 0; c < tensor.cols; ++c) {
        const int64_t zero = row_zeros[static_cast<size_t>(tensor.column_group[static_cast<size_t>(c)])];
        const int64_t code = packed_value(packed.bytes(), r * words, 1, c, bits) - middle;
        tensor.levels.push_back(static_cast<int16_t>(code - zero));
      }
    }
  }

  std::string label_;
  Json settings_;
};

}  // namespace

std::unique_ptr<ArtifactReader> open_compressed_tensors_artifact(const std::filesystem::path& directory) {
  return std::make_unique<CompressedTensorsArtifact>(directory);
}

}  // namespace retort
