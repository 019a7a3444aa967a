// MLX's affine groups by their definition: scale * code + bias, the codes of a row one stream of bits.
#include <algorithm>
#include <iterator>

#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/safetensors_artifact.h"

namespace retort {
namespace {

class MlxArtifact : public HfArtifact {
 public:
  MlxArtifact(const std::filesystem::path& directory, const ModelConfig& config)
      : HfArtifact(directory),
        config_(config),
        label_((directory / "config.json").string()),
        settings_(HfArtifact::config().at("quantization")) {}

  std::string_view format() const override { return "mlx"; }
  std::optional<DType> loaded_type() const override { return std::nullopt; }

  std::vector<ConfigNumber> numbers() const override {
    auto numbers = numbers_without_windows(HfArtifact::numbers(), config_);
    std::ranges::copy_if(numbers_of(loaded_config(), "config.json: rope_theta, rope_scaling"),
                         std::back_inserter(numbers),
                         [](const ConfigNumber& number) { return number.name.starts_with("rotary"); });
    return numbers;
  }

  // transformers reads the one, mlx-lm the other.
  std::vector<std::string> setting_differences(const ModelSource& model) const override {
    auto lines = HfArtifact::setting_differences(model);
    if (config().contains("quantization_config"))
      append(lines, quantization_differences(config(), settings_, "quantization"));
    return lines;
  }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    const std::string base = expected.name.substr(0, expected.name.rfind('.'));
    if (!expected.name.ends_with(".weight") || !has(base + ".scales")) return HfArtifact::read(expected);
    const Json& settings = settings_.contains(base) ? settings_[base] : settings_;
    const auto bits = json_required<int64_t>(settings, "bits", label_);
    const auto group = json_required<int64_t>(settings, "group_size", label_);
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    if (group < 1 || bits < 2 || bits > 8 || tensor.cols % group != 0 || tensor.cols * bits % 32 != 0)
      fail_artifact(expected, "its rows are not whole groups and words");
    tensor.groups = tensor.cols / group;
    for (int64_t c = 0; c < tensor.cols; ++c) tensor.column_group.push_back(static_cast<int32_t>(c / group));
    read_groups(expected, base, tensor);
    const StoredTensor& words = require(expected, base + ".weight");
    const int64_t row_words = tensor.cols * bits / 32;
    check(expected, words, DType::kU32, {tensor.rows, row_words});
    tensor.levels.reserve(static_cast<size_t>(tensor.rows * tensor.cols));
    for (int64_t r = 0; r < tensor.rows; ++r)
      for (int64_t c = 0; c < tensor.cols; ++c)
        tensor.levels.push_back(static_cast<int16_t>(packed_value(words.bytes(), r * row_words, 1, c, bits)));
    return tensor;
  }

 protected:
  ModelConfig loaded_config() const override { return parse_config(as_mlx_reads(), label_); }

 private:
  // mlx-lm knows no rope_parameters, and the attention factor of YaRN as a ratio of two others.
  Json as_mlx_reads() const {
    Json json = config();
    json.erase("rope_parameters");
    const auto scaling = json.find("rope_scaling");
    if (scaling == json.end() || !scaling->is_object() ||
        json_value<std::string>(*scaling, "rope_type", "", label_) != "yarn")
      return json;
    const auto factor = [&](const char* key, double fallback) {
      return yarn_attention_factor(json_required<double>(*scaling, "factor", label_),
                                   json_value(*scaling, key, fallback, label_));
    };
    (*scaling)["attention_factor"] = factor("mscale", 1) / factor("mscale_all_dim", 0);
    return json;
  }

  // A bias is a minimum with the other sign, also where it stands for a zero point.
  void read_groups(const ExpectedTensor& expected, const std::string& base, ArtifactTensor& tensor) const {
    const StoredTensor &scales = require(expected, base + ".scales"), &biases = require(expected, base + ".biases");
    if (biases.info->dtype != scales.info->dtype) fail_artifact(expected, "its scales and biases have two types");
    tensor.scales = floats(expected, scales, {tensor.rows, tensor.groups});
    tensor.minima = floats(expected, biases, {tensor.rows, tensor.groups});
    for (float& minimum : tensor.minima) minimum = -minimum;
  }

  const ModelConfig& config_;
  std::string label_;
  Json settings_;
};

}  // namespace

std::unique_ptr<ArtifactReader> open_mlx_artifact(const std::filesystem::path& directory, const ModelConfig& config) {
  return std::make_unique<MlxArtifact>(directory, config);
}

}  // namespace retort
