// Checkpoints of compressed-tensors: safetensors with weight_packed, weight_scale, weight_shape and weight_zero_point
// for each linear layer, and the settings in config.json. Matrices of different schemes become groups of modules.
#include <algorithm>
#include <optional>

#include "core/pack/held_as.h"
#include "core/pack/packed_format.h"
#include "export/formats.h"
#include "export/module_checkpoint.h"
#include "export/tensors.h"

namespace retort {
namespace {

struct ConfigGroup {
  Scheme scheme;
  std::vector<std::string> modules;
};

// Keys that every version of the library knows: it refuses others.
Json weights_json(const Scheme& scheme, const Json& order) {
  const bool grouped = scheme.granularity == Granularity::kGroup;
  return {{"num_bits", scheme.bits},
          {"type", "int"},
          {"symmetric", scheme.symmetric},
          {"strategy", grouped ? "group" : "channel"},
          {"group_size", grouped ? Json(scheme.group) : Json(nullptr)},
          {"dynamic", false},
          {"actorder", order},
          {"block_structure", nullptr},
          {"observer", "minmax"},
          {"observer_kwargs", Json::object()}};
}

class CompressedTensorsExporter : public ModuleCheckpoint {
 public:
  CompressedTensorsExporter(const ModelSource& source, const ExportOptions& options)
      : ModuleCheckpoint(source, options, packed_format("compressed-tensors"), /*row_axis=*/0) {
    require_quantized(source);
  }

  std::string refuses(const PlannedTensor& planned, const QuantizedMatrix& m) const override {
    if (planned.rule->input == Input::kNone) return "only the linear weights of layers have a place in it";
    return layout().refuses(m);
  }

  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override {
    ModuleCheckpoint::begin(path, plan);
    for (const PlannedTensor& planned : plan) {
      if (planned.dense) widen(*planned.dense);
      if (!planned.dense) modules_of(compressed_tensors_scheme(planned.tensor->scheme)).push_back(module_name(planned));
    }
  }

 protected:
  // Scales in BF16 are F16 numbers as well: they survive in a model of either type.
  void stored(const PackedPart& part) override {
    if (part.dtype == DType::kF16) widen(DType::kF16);
  }

  void describe(Json& config) override {
    config.erase("torch_dtype");
    config["dtype"] = torch_name(*type_);
    // A statement only: in either order of solving, groups are runs of neighbouring columns.
    const bool by_activation = json_value<std::string>(config["retort"], "group_order", "", "retort") == "activation";
    config["quantization_config"] = settings(by_activation ? Json("static") : Json());
  }

 private:
  // Loaders convert dense tensors and scales to the one type that config.json names.
  void widen(DType type) { type_ = type_.value_or(type) == type ? type : DType::kF32; }

  std::vector<std::string>& modules_of(const Scheme& scheme) {
    const auto found = std::ranges::find(groups_, scheme, &ConfigGroup::scheme);
    return found == groups_.end() ? groups_.emplace_back(ConfigGroup{scheme, {}}).modules : found->modules;
  }

  Json settings(const Json& order) const {
    Json groups = Json::object();
    for (const ConfigGroup& group : groups_)
      groups["group_" + std::to_string(groups.size())] = {
          {"targets", groups_.size() == 1 ? Json::array({"Linear"}) : Json(group.modules)},
          {"format", "pack-quantized"},
          {"input_activations", nullptr},
          {"output_activations", nullptr},
          {"weights", weights_json(group.scheme, order)}};
    Json ignored = dense_modules();
    ignored.push_back("lm_head");
    return {{"quant_method", "compressed-tensors"},
            {"version", "0.19.0"},  // of the library, whose layout this is
            {"format", "pack-quantized"},
            {"quantization_status", "compressed"},
            {"config_groups", groups},
            {"ignore", ignored},
            {"kv_cache_scheme", nullptr},
            {"global_compression_ratio", nullptr}};
  }

  std::vector<ConfigGroup> groups_;
  std::optional<DType> type_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_compressed_tensors_writer(const ModelSource& source,
                                                               const ExportOptions& options) {
  return std::make_unique<CompressedTensorsExporter>(source, options);
}

}  // namespace retort
