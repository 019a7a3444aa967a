// AWQ's GEMM words by their definition.
#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/safetensors_artifact.h"

namespace retort {
namespace {

class AwqArtifact : public HfArtifact {
 public:
  explicit AwqArtifact(const std::filesystem::path& directory) : HfArtifact(directory) {
    const std::string label = (directory / "config.json").string();
    const Json& settings = config().at("quantization_config");
    other_ = directory / "quantize_config.json";
    if (json_required<int64_t>(settings, "bits", label) != 4) fail("verify", label, "bits is not 4");
    if (json_value<std::string>(settings, "version", "gemm", label) != "gemm")
      fail("verify", label, "the version is not gemm");
  }

  std::string_view format() const override { return "awq"; }
  std::optional<DType> loaded_type() const override { return std::nullopt; }

  std::vector<std::string> setting_differences(const ModelSource& model) const override {
    const std::string place = "config.json: quantization_config";
    const Json& settings = config().at("quantization_config");
    auto lines = HfArtifact::setting_differences(model);
    if (exists(other_))
      append(lines, quantization_differences(config(), read_json_file(other_.string()), "quantize_config.json"));
    append(lines, retort::setting_differences(settings, "zero_point", true, place));  // the layout always has them
    append(lines, list_differences(model, "qweight", texts_of(settings, "modules_to_not_convert"),
                                   place + ": modules_to_not_convert"));
    return lines;
  }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    const std::string base = expected.name.substr(0, expected.name.rfind('.'));
    if (!expected.name.ends_with(".weight") || !has(base + ".qweight")) return HfArtifact::read(expected);
    const StoredTensor &words = require(expected, base + ".qweight"), &zeros = require(expected, base + ".qzeros"),
                       &scales = require(expected, base + ".scales");
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    tensor.groups = scales.info->shape.empty() ? 0 : scales.info->shape[0];
    if (tensor.rows % 8 != 0 || tensor.groups == 0 || tensor.cols % tensor.groups != 0)
      fail_artifact(expected, "its words or groups are not whole");
    check(expected, words, DType::kI32, {tensor.cols, tensor.rows / 8});
    check(expected, zeros, DType::kI32, {tensor.groups, tensor.rows / 8});
    tensor.scales = scales_by_group(expected, scales, tensor.groups);
    const int64_t group = tensor.cols / tensor.groups;
    tensor.levels.reserve(static_cast<size_t>(tensor.rows * tensor.cols));
    for (int64_t c = 0; c < tensor.cols; ++c) tensor.column_group.push_back(static_cast<int32_t>(c / group));
    for (int64_t r = 0; r < tensor.rows; ++r)
      for (int64_t c = 0; c < tensor.cols; ++c)
        tensor.levels.push_back(
            static_cast<int16_t>(nibble(words, c * tensor.rows + r) - nibble(zeros, c / group * tensor.rows + r)));
    return tensor;
  }

 private:
  // The value of output `index % 8` of its word: even outputs fill the low half, odd ones the high half.
  static int nibble(const StoredTensor& words, int64_t index) {
    const int64_t output = index % 8, place = output / 2 + output % 2 * 4;
    return static_cast<int>(value_at<uint32_t>(words.bytes(), index / 8) >> (4 * place)) & 15;
  }

  std::filesystem::path other_;
};

}  // namespace

std::unique_ptr<ArtifactReader> open_awq_artifact(const std::filesystem::path& directory) {
  return std::make_unique<AwqArtifact>(directory);
}

}  // namespace retort
