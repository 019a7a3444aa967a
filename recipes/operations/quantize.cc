#include "quantize/quantize.h"

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/text.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "Hugging Face directory", true, true},
    {"scheme", ParamType::kText, "int4",
     "int{2,3,4,8}-{gN,channel,tensor}-{sym,asym}, q8_0 or q4_0; int4 is int4-g128-sym"},
    {"method", ParamType::kText, "rtn", "how codes are chosen; gptq needs --calibration", false, false, "rtn|gptq"},
    {"calibration", ParamType::kFile, "", "text for gptq: a file, or a directory of .txt and .md files"},
    {"samples", ParamType::kInteger, "128", "windows of the calibration text", false, false, "", 1, 1 << 20},
    {"sequence-length", ParamType::kInteger, "0",
     "tokens of a window; 0: 512, or the model's context where that is shorter"},
    {"group-order", ParamType::kText, "activation", "gptq: columns as they are, or the most active first", false, false,
     "none|activation"},
    {"damp", ParamType::kNumber, "0.01", "gptq: share of the mean diagonal that is added to it", false, false, "", 0,
     1},
    {"grid", ParamType::kText, "mse",
     "rtn: scales by the smallest squared error, or as wide as the largest weight", false, false, "mse|max"},
    {"keep", ParamType::kList, "",
     "PATTERN=TYPE: tensors of other types, by a glob on their names; TYPE is a scheme, f16, bf16 or f32"},
};

QuantizeOptions read_options(const Params& params) {
  QuantizeOptions options;
  options.scheme = params.text("scheme");
  options.method = params.text("method");
  if (params.has("calibration")) options.calibration = params.path("calibration").string();
  options.samples = params.integer("samples");
  options.sequence_length = params.integer("sequence-length");
  options.group_order = params.text("group-order");
  options.damp = params.number("damp");
  options.grid = params.text("grid");
  if (!params.has("keep")) return options;
  for (const std::string& rule : params.list("keep")) {
    const size_t equals = rule.rfind('=');
    if (equals == std::string::npos) fail_usage("quantize", "--keep", "'" + rule + "' is not of the form PATTERN=TYPE");
    options.keep.emplace_back(rule.substr(0, equals), rule.substr(equals + 1));
  }
  return options;
}

std::string describe(const QuantizeSummary& summary) {
  std::string text = fmt::format("{} by {}: {:.3f} bits per weight, {}, {:.1f} s, at most {} in memory", summary.scheme,
                                 summary.method, summary.bits_per_weight, format_bytes(summary.output_bytes),
                                 summary.seconds, format_bytes(summary.peak_rss_bytes));
  for (const TensorReport& tensor : summary.tensors)
    if (!tensor.fallback.empty()) text += fmt::format("\n  {}: {}", tensor.name, tensor.fallback);
  return text;
}

OperationResult run(const Params& params, const std::filesystem::path& output, Context& context) {
  const auto source = open_model(params.path("model"));
  const QuantizeSummary summary = quantize_model(*source, output, read_options(params), context);
  return {to_json(summary), !summary.fell_back(), describe(summary)};
}

}  // namespace

extern const Operation kQuantizeOperation = {"quantize",
                                             1,
                                             "Choose codes and scales; writes a native quantized directory.",
                                             kParams,
                                             OutputKind::kDirectory,
                                             true,
                                             true,
                                             run};

}  // namespace retort
