// GPTQ's words by their definition.
#include <algorithm>

#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/safetensors_artifact.h"

namespace retort {
namespace {

class GptqArtifact : public HfArtifact {
 public:
  explicit GptqArtifact(const std::filesystem::path& directory) : HfArtifact(directory) {
    const std::string label = (directory / "quantize_config.json").string();
    settings_ = read_json_file(label);
    bits_ = json_required<int64_t>(settings_, "bits", label);
    const auto version = json_value<std::string>(settings_, "checkpoint_format", "gptq", label);
    if (bits_ != 2 && bits_ != 3 && bits_ != 4 && bits_ != 8) fail("verify", label, "bits is not 2, 3, 4 or 8");
    if (version != "gptq" && version != "gptq_v2") fail("verify", label, "the checkpoint_format is not known");
    zero_offset_ = version == "gptq" ? 1 : 0;
  }

  std::string_view format() const override { return "gptq"; }
  std::optional<DType> loaded_type() const override { return std::nullopt; }

  std::vector<std::string> setting_differences(const ModelSource& model) const override {
    const std::string place = "quantize_config.json";
    auto lines = HfArtifact::setting_differences(model);
    append(lines, quantization_differences(config(), settings_, place));
    if (config().contains("retort"))  // which writes both so; others have asymmetric files of version 1
      append(lines, retort::setting_differences(settings_, "sym", zero_offset_ == 1, place));
    append(lines, order_differences(model, place));
    std::set<std::string> patterns;
    for (const std::string& module : modules(model, "qweight", false)) patterns.insert(pattern_of(module));
    append(lines, module_differences(exempt(), patterns, place + ": dynamic"));
    append(lines, named_differences(model, place));
    return lines;
  }

  ArtifactTensor read(const ExpectedTensor& expected) const override {
    const std::string base = expected.name.substr(0, expected.name.rfind('.'));
    if (!expected.name.ends_with(".weight") || !has(base + ".qweight")) return HfArtifact::read(expected);
    ArtifactTensor tensor;
    tensor.rows = rows_of(expected);
    tensor.cols = cols_of(expected);
    const StoredTensor& scales = require(expected, base + ".scales");
    if (scales.info->shape.size() != 2) fail_artifact(expected, "its scales are no matrix");
    tensor.groups = scales.info->shape[0];
    tensor.scales = scales_by_group(expected, scales, tensor.groups);
    read_levels(expected, base, tensor);
    return tensor;
  }

 private:
  // GPTQModel's way to say that one module is not quantized.
  static std::string pattern_of(const std::string& module) {
    std::string pattern = "-:^";
    for (const char c : module) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
    return pattern + "$";
  }

  // Programs that are told nothing of an order do not look at g_idx.
  std::vector<std::string> order_differences(const ModelSource& model, const std::string& place) const {
    if (json_value<bool>(settings_, "desc_act", false, place)) return {};
    std::vector<std::string> lines;
    for (const std::string& module : modules(model, "g_idx", true))
      if (!in_order(stored(module + ".g_idx")))
        lines.push_back(place + ": desc_act: false, and the columns of " + module + " have an order");
    return lines;
  }

  static bool in_order(const StoredTensor& index) {
    const auto columns = static_cast<int64_t>(index.bytes().size() / sizeof(int32_t));
    for (int64_t c = 1; c < columns; ++c)
      if (value_at<int32_t>(index.bytes(), c) < value_at<int32_t>(index.bytes(), c - 1)) return false;
    return true;
  }

  // What transformers takes for quantized: all modules, or those whose names end as the list has it. GPTQModel writes
  // none, for it reads `dynamic`.
  std::vector<std::string> named_differences(const ModelSource& model, const std::string& place) const {
    constexpr const char* kKey = "modules_in_block_to_quantize";
    std::vector<std::string> lines, named;
    for (const Json& list : settings_.value(kKey, Json::array()))
      for (const Json& name : list.is_array() ? list : Json::array())
        if (name.is_string()) named.push_back(name);
    if (named.empty() && !config().contains("retort")) return lines;
    const auto is_named = [&](const std::string& module) {
      return named.empty() || std::ranges::any_of(named, [&](const std::string& end) { return module.ends_with(end); });
    };
    for (const bool quantized : {true, false})
      for (const std::string& module : modules(model, "qweight", quantized))
        if (is_named(module) != quantized)
          lines.push_back(place + ": " + kKey + ": " + module + (quantized ? " is missing" : " is dense"));
    return lines;
  }

  std::set<std::string> exempt() const {
    std::set<std::string> patterns;
    const auto dynamic = settings_.find("dynamic");
    if (dynamic == settings_.end() || !dynamic->is_object()) return patterns;
    for (const auto& [pattern, settings] : dynamic->items())
      if (pattern.starts_with("-:")) patterns.insert(pattern);
    return patterns;
  }

  void read_levels(const ExpectedTensor& expected, const std::string& base, ArtifactTensor& tensor) const {
    const StoredTensor& words = require(expected, base + ".qweight");
    const StoredTensor& zeros = require(expected, base + ".qzeros");
    const StoredTensor& index = require(expected, base + ".g_idx");
    check(expected, words, DType::kI32, {tensor.cols * bits_ / 32, tensor.rows});
    check(expected, zeros, DType::kI32, {tensor.groups, tensor.rows * bits_ / 32});
    check(expected, index, DType::kI32, {tensor.cols});
    if (tensor.cols * bits_ % 32 != 0 || tensor.rows * bits_ % 32 != 0)
      fail_artifact(expected, "its rows and columns do not fill whole words");
    for (int64_t c = 0; c < tensor.cols; ++c) {
      const auto group = value_at<int32_t>(index.bytes(), c);
      if (group < 0 || group >= tensor.groups) fail_artifact(expected, "g_idx names a group that does not exist");
      tensor.column_group.push_back(group);
    }
    tensor.levels.resize(static_cast<size_t>(tensor.rows * tensor.cols));
    std::vector<uint32_t> row_zeros(static_cast<size_t>(tensor.groups));
    for (int64_t r = 0; r < tensor.rows; ++r) {
      for (int64_t g = 0; g < tensor.groups; ++g)
        row_zeros[static_cast<size_t>(g)] =
            packed_value(zeros.bytes(), g * (tensor.rows * bits_ / 32), 1, r, bits_) + zero_offset_;
      for (int64_t c = 0; c < tensor.cols; ++c) {
        const uint32_t zero = row_zeros[static_cast<size_t>(tensor.column_group[static_cast<size_t>(c)])];
        const uint32_t code = packed_value(words.bytes(), r, tensor.rows, c, bits_);
        tensor.levels[static_cast<size_t>(r * tensor.cols + c)] = static_cast<int16_t>(code - zero);
      }
    }
  }

  Json settings_;
  int64_t bits_ = 0;
  uint32_t zero_offset_ = 0;
};

}  // namespace

std::unique_ptr<ArtifactReader> open_gptq_artifact(const std::filesystem::path& directory) {
  return std::make_unique<GptqArtifact>(directory);
}

}  // namespace retort
