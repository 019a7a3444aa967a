// AWQ checkpoints in the GEMM layout: safetensors with qweight, qzeros and scales for each linear layer, and the
// settings in config.json and quantize_config.json. Four bits and one group size serve the whole model; a code of fewer
// bits keeps its distance from the zero point.
#include "core/base/files.h"
#include "core/pack/packed_format.h"
#include "core/pack/parts.h"
#include "export/formats.h"
#include "export/module_checkpoint.h"

namespace retort {
namespace {

constexpr int kBits = 4;

class AwqExporter : public ModuleCheckpoint {
 public:
  AwqExporter(const ModelSource& source, const ExportOptions& options)
      : ModuleCheckpoint(source, options, packed_format("awq"), /*row_axis=*/1),
        scheme_(uniform_scheme(source, kBits)) {}

  std::string refuses(const PlannedTensor& planned, const QuantizedMatrix& m) const override {
    if (!groups_in_order(m)) return "columns in activation order have no place in the GEMM layout";
    return refuses_uniform(planned, m, scheme_, layout());
  }

 protected:
  QuantizedMatrix restated(QuantizedMatrix rows) override { return in_uniform(std::move(rows), scheme_); }

  void describe(Json& config) override {
    config["quantization_config"] = settings();
    write_text_file(directory() / "quantize_config.json", settings().dump(2) + "\n");
  }

 private:
  Json settings() const {
    Json json{{"quant_method", "awq"},
              {"version", "gemm"},
              {"format", "gemm"},
              {"checkpoint_format", "gemm"},
              {"bits", kBits},
              {"group_size", scheme_.granularity == Granularity::kGroup ? scheme_.group : -1},
              {"zero_point", true},  // the layout has zero points, the middle for symmetric codes
              {"sym", scheme_.symmetric},
              {"desc_act", false},
              {"lm_head", false},
              {"pack_dtype", "int32"}};
    json["modules_to_not_convert"] = dense_modules();
    json["modules_to_not_convert"].push_back("lm_head");
    json["meta"] = {{"quantizer", Json::array({"retort"})}};
    if (!notes().empty()) json["meta"]["fallbacks"] = notes();
    return json;
  }

  const Scheme scheme_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_awq_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<AwqExporter>(source, options);
}

}  // namespace retort
