// Directories as mlx-lm loads them: safetensors with weight, scales and biases for each quantized linear layer or
// embedding, each with its own width and group size, and a config.json in the keys that mlx-lm reads.
#include <algorithm>
#include <map>

#include "core/base/counts.h"
#include "core/base/error.h"
#include "core/pack/held_as.h"
#include "core/pack/packed_format.h"
#include "export/formats.h"
#include "export/module_checkpoint.h"
#include "export/tensors.h"

namespace retort {
namespace {

void check_model(const ModelConfig& c) {
  const char* remedy = "Use --format onnx or hf";
  if (c.family->qk_norm && c.qkv_bias)
    fail("export", tensor_name(c, Role::kQuery, 0, Part::kBias), "mlx-lm's qwen3 has no biases in attention", remedy);
  if (c.rope.scaling == RopeScaling::kYarn && !c.rope.truncate)
    fail("export", "rope", "mlx-lm's YaRN has whole dimensions as its bounds, and the model says \"truncate\": false",
         remedy);
  if (c.rope.scaling == RopeScaling::kLongRope)
    fail("export", "rope", "mlx-lm takes longrope's factors for long sequences in short ones too", remedy);
  if (c.family->always_qkv_bias && c.head_dim * c.heads != c.hidden_size)
    fail("export", "head_dim", "mlx-lm's qwen2 takes hidden_size / num_attention_heads for it", remedy);
}

// mlx-lm has no attention factor, but a ratio of two others that comes to it.
Json yarn_settings(const RopeConfig& rope) {
  const double advised = yarn_attention_factor(rope.factor) - 1;
  return {{"rope_type", "yarn"},
          {"factor", rope.factor},
          {"original_max_position_embeddings", rope.original_context},
          {"beta_fast", rope.beta_fast},
          {"beta_slow", rope.beta_slow},
          {"mscale", advised == 0 ? 1.0 : (rope.attention_factor - 1) / advised},
          {"mscale_all_dim", 0}};
}

// mlx-lm reads the keys of transformers 4, and takes other values than transformers where a key is missing. It has
// no sliding window in these families: within the window that is the same, so the context ends there.
void restate(Json& config, const ModelConfig& c) {
  config["rope_theta"] = c.rope.theta;
  const auto parameters = config.find("rope_parameters");
  if (c.rope.scaling != RopeScaling::kNone && parameters != config.end() && parameters->is_object())
    config["rope_scaling"] = *parameters;
  if (c.rope.scaling == RopeScaling::kYarn) config["rope_scaling"] = yarn_settings(c.rope);
  config["num_key_value_heads"] = c.kv_heads;
  config["head_dim"] = c.head_dim;
  config["tie_word_embeddings"] = c.tied_embeddings;
  config["max_position_embeddings"] = exact_context(c);
  config["rms_norm_eps"] = c.norm_eps;
  for (const char* key : {"use_sliding_window", "layer_types", "max_window_layers"}) config.erase(key);
  if (config.contains("sliding_window")) config["sliding_window"] = nullptr;
}

class MlxExporter : public ModuleCheckpoint {
 public:
  MlxExporter(const ModelSource& source, const ExportOptions& options)
      : ModuleCheckpoint(source, options, packed_format("mlx"), /*row_axis=*/0) {
    check_model(source.config());
    require_quantized(source);
  }

  std::string refuses(const PlannedTensor& planned, const QuantizedMatrix& m) const override {
    if (planned.rule->part != Part::kWeight) return "only weights have a place in it";
    return mlx_refuses(m);
  }

  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override {
    ModuleCheckpoint::begin(path, plan);
    for (const PlannedTensor& planned : plan) {
      if (planned.dense) continue;
      const Scheme scheme = mlx_scheme(planned.tensor->scheme, planned.tensor->cols());
      modules_.push_back({module_name(planned), {{"group_size", scheme.group}, {"bits", scheme.bits}}});
      ++uses_[modules_.back().settings];
    }
  }

 protected:
  QuantizedMatrix restated(QuantizedMatrix rows) override {
    const Scheme scheme = mlx_scheme(rows.scheme, rows.cols);
    return in_uniform(std::move(rows), scheme);
  }

  // The settings of most modules, and by name those of the others.
  void describe(Json& config) override {
    const Json& common = largest_count(uses_)->first;
    Json quantization = common;
    for (const Module& module : modules_)
      if (module.settings != common) quantization[module.name] = module.settings;
    config["quantization"] = quantization;
    config["quantization_config"] = std::move(quantization);
    restate(config, source().config());
  }

 private:
  struct Module {
    std::string name;
    Json settings;
  };

  std::vector<Module> modules_;
  std::map<Json, int64_t> uses_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_mlx_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<MlxExporter>(source, options);
}

}  // namespace retort
