// GPTQ checkpoints: safetensors with qweight, qzeros, scales and g_idx for each linear layer, and the settings in
// config.json and quantize_config.json. One width and one group size serve the whole model.
#include <atomic>

#include "core/base/files.h"
#include "core/pack/packed_format.h"
#include "core/pack/parts.h"
#include "export/formats.h"
#include "export/module_checkpoint.h"

namespace retort {
namespace {

class GptqExporter : public ModuleCheckpoint {
 public:
  GptqExporter(const ModelSource& source, const ExportOptions& options, const Scheme& scheme)
      : ModuleCheckpoint(source, options, packed_format(version_of(scheme)), /*row_axis=*/1), scheme_(scheme) {}

  std::string refuses(const PlannedTensor& planned, const QuantizedMatrix& m) const override {
    return refuses_uniform(planned, m, scheme_, layout());
  }

 protected:
  QuantizedMatrix restated(QuantizedMatrix rows) override {
    if (!groups_in_order(rows)) activation_order_ = true;
    return in_uniform(std::move(rows), scheme_);
  }

  void describe(Json& config) override {
    config["quantization_config"] = settings();
    write_text_file(directory() / "quantize_config.json", settings().dump(2) + "\n");
  }

 private:
  static const char* version_of(const Scheme& scheme) { return scheme.symmetric ? "gptq" : "gptq_v2"; }

  Json settings() const {
    Json json{{"quant_method", "gptq"},
              {"bits", scheme_.bits},
              {"group_size", scheme_.granularity == Granularity::kGroup ? scheme_.group : -1},
              {"desc_act", activation_order_.load()},
              {"sym", scheme_.symmetric},
              {"lm_head", false},
              {"true_sequential", false},
              {"checkpoint_format", version_of(scheme_)},
              {"pack_dtype", "int32"}};
    // GPTQModel's way to say that a module is not quantized, and that of transformers and vLLM to say which are.
    if (!dense_modules().empty()) json["modules_in_block_to_quantize"] = Json::array({quantized_modules()});
    for (const std::string& module : dense_modules()) json["dynamic"]["-:^" + escaped(module) + "$"] = Json::object();
    json["meta"] = {{"quantizer", Json::array({"retort"})}};
    if (!notes().empty()) json["meta"]["fallbacks"] = notes();
    return json;
  }

  static std::string escaped(const std::string& text) {
    std::string pattern;
    for (const char c : text) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
    return pattern;
  }

  const Scheme scheme_;
  std::atomic<bool> activation_order_ = false;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_gptq_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<GptqExporter>(source, options, uniform_scheme(source));
}

}  // namespace retort
