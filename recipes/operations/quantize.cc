#include "quantize/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "core/base/error.h"
#include "core/base/text.h"
#include "quantize/heeded.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "Hugging Face directory", true, true},
    {"scheme", ParamType::kText, "int4",
     "int{2,3,4,8}-{gN,channel,tensor}-{sym,asym}, nf4-gN, a GGUF block type or mix (q4_k_m); int4 is int4-g128-sym; "
     "auto: a type for each matrix, so that --size is kept"},
    {"size", ParamType::kText, "", "with --scheme auto: bits per weight (4.5bpw) or the size of the result (700MiB)"},
    {"types", ParamType::kText, "",
     "with --scheme auto: the schemes to choose from, with commas; by default what --for holds, or GGUF"},
    {"method", ParamType::kText, "rtn", "how codes are chosen; all but rtn need --calibration, or imatrix --imatrix",
     false, false, "rtn|gptq|awq|awq+gptq|imatrix"},
    {"calibration", ParamType::kFile, "", "text to calibrate on: a file, or a directory of .txt and .md files"},
    {"samples", ParamType::kInteger, "128", "windows of the calibration text", false, false, "", 1, 1 << 20},
    {"sequence-length", ParamType::kInteger, "0",
     "tokens of a window; 0: 512, or the model's context where that is shorter"},
    {"group-order", ParamType::kText, "activation", "gptq: columns as they are, or the most active first", false, false,
     "none|activation"},
    {"imatrix", ParamType::kFile, "", "imatrix: importance of the columns from llama.cpp's file, instead of a text"},
    {.name = "save-imatrix",
     .type = ParamType::kText,
     .fallback = "",
     .help = "imatrix: file to write the importance of the columns to; .dat: in the older form of llama.cpp",
     .writes_beside = true},
    {"damp", ParamType::kNumber, "0.01", "gptq: share of the mean diagonal that is added to it", false, false, "", 0,
     1},
    {"second-pass", ParamType::kText, "on",
     "gptq: go over the codes again until each is the best beside all the others", false, false, "on|off"},
    {"aim", ParamType::kText, "quantized",
     "gptq, awq: outputs as the weights give them, or as in the float model, which is closer and takes longer", false,
     false, "quantized|float"},
    {"precision", ParamType::kText, "auto",
     "of the matrix products while calibrating; auto: bf16 where the CPU is faster with it", false, false,
     "auto|f32|bf16"},
    {"grid", ParamType::kText, "mse",
     "rtn, imatrix: scales by the smallest squared error, or as wide as the largest weight", false, false, "mse|max"},
    {"scale-type", ParamType::kText, "f16",
     "scales: any number of f16, or those that bf16 holds too, for programs that cast them", false, false,
     "f16|portable"},
    {"for", ParamType::kText, "", "the program that shall load the result: says before the work whether it does", false,
     false, "vllm|llama.cpp|onnxruntime|mlx"},
    {"strict", ParamType::kFlag, "", "fail where a tensor would fall back, or --for's program would not load it"},
    {"learn-rounding", ParamType::kInteger, "0",
     "steps of training codes and scales against the float model; needs --calibration", false, false, "", 0, 1 << 20},
    {"tune-scales", ParamType::kInteger, "0", "steps of training scales and norms, codes kept; needs --calibration",
     false, false, "", 0, 1 << 20},
    {"outliers", ParamType::kInteger, "0",
     "columns of each matrix that stay in 16 bits, those that would lose most; with int schemes", false, false, "", 0,
     1 << 20},
    {"keep", ParamType::kList, "",
     "PATTERN=TYPE: tensors of other types, by a glob on their names; TYPE is a scheme, f16, bf16 or f32"},
};

QuantizeOptions read_options(const Params& params) {
  QuantizeOptions options;
  options.scheme = params.text("scheme");
  options.method = params.text("method");
  if (params.has("size")) options.size = params.text("size");
  if (params.has("types")) options.types = params.text("types");
  if (params.has("calibration")) options.calibration = params.path("calibration").string();
  if (params.has("imatrix")) options.imatrix = params.path("imatrix").string();
  if (params.has("save-imatrix")) options.save_imatrix = params.text("save-imatrix");
  options.samples = params.integer("samples");
  options.sequence_length = params.integer("sequence-length");
  options.group_order = params.text("group-order");
  options.damp = params.number("damp");
  options.second_pass = params.text("second-pass") == "on";
  options.aim = params.text("aim");
  options.precision = params.text("precision");
  options.grid = params.text("grid");
  options.scale_type = params.text("scale-type");
  if (params.has("for")) options.target = params.text("for");
  options.strict = params.flag("strict");
  options.learn_rounding = params.integer("learn-rounding");
  options.tune_scales = params.integer("tune-scales");
  options.outliers = params.integer("outliers");
  if (!params.has("keep")) return options;
  for (const std::string& rule : params.list("keep")) {
    const size_t equals = rule.rfind('=');
    if (equals == std::string::npos) fail_usage("quantize", "--keep", "'" + rule + "' is not of the form PATTERN=TYPE");
    options.keep.emplace_back(rule.substr(0, equals), rule.substr(equals + 1));
  }
  return options;
}

bool needs_torch(const Params& params) { return computes_model(read_options(params)); }

std::string unheeded(const Params& params, std::string_view name) { return why_unheeded(read_options(params), name); }

constexpr size_t kWorst = 10;

// Where it was measured: of rounding to nearest, and of what was chosen.
std::string output_error(const TensorReport& tensor) {
  if (!tensor.details.contains("output_error")) return {};
  return fmt::format("  outputs {:.5f} -> {:.5f}", tensor.details["output_error_rounded"].get<double>(),
                     tensor.details["output_error"].get<double>());
}

// The tensors that lost most, as aligned columns.
std::string worst_tensors(const QuantizeSummary& summary) {
  std::vector<const TensorReport*> reports;
  size_t width = 0;
  for (const TensorReport& tensor : summary.tensors)
    if (tensor.relative_error > 0) reports.push_back(&tensor);
  std::ranges::stable_sort(reports, std::greater<>(), &TensorReport::relative_error);
  reports.resize(std::min(reports.size(), kWorst));
  for (const TensorReport* tensor : reports) width = std::max(width, tensor->name.size());
  std::string text;
  for (const TensorReport* tensor : reports)
    text += fmt::format("\n  {:<{}}  {:<14}  {:<8}  {:8.5f}  {:6.2f} s{}", tensor->name, width, tensor->scheme,
                        tensor->method, tensor->relative_error, tensor->seconds, output_error(*tensor));
  return text.empty() ? text : "\nlargest relative errors" + text;
}

// What auto chose.
std::string allocation(const QuantizeSummary& summary) {
  if (summary.allocation.is_null()) return {};
  std::string text = fmt::format("\nwithin {}, by {}:", summary.allocation["size"].get<std::string>(),
                                 summary.allocation["measure"].get<std::string>());
  for (const auto& [name, type] : summary.allocation["types"].items())
    text += fmt::format("\n  {:<14}  {:4} matrices  {:6.3f} bits per weight", name, type["tensors"].get<int64_t>(),
                        type["bits_per_weight"].get<double>());
  return text;
}

bool is_loaded(const QuantizeSummary& summary) {
  return summary.verdict.is_null() || summary.verdict["loads"].get<bool>();
}

// Whether the program of --for loads the result.
std::string verdict(const QuantizeSummary& summary) {
  if (summary.verdict.is_null()) return {};
  const auto target = summary.verdict["target"].get<std::string>(),
             format = summary.verdict["format"].get<std::string>();
  std::string text = "\n" + target + (is_loaded(summary) ? " loads this as --format " + format : " does not load this");
  for (const auto& [key, before] : {std::pair{"reasons", "\n  "}, {"held_as", "\n  held there: "}})
    for (const Json& line : summary.verdict[key]) text += before + line.get<std::string>();
  return text;
}

std::string describe(const QuantizeSummary& summary) {
  std::string text = fmt::format("{} by {}: {:.3f} bits per weight, {}, {:.1f} s, at most {} in memory", summary.scheme,
                                 summary.method, summary.bits_per_weight, format_bytes(summary.output_bytes),
                                 summary.seconds, format_bytes(summary.peak_rss_bytes));
  text += verdict(summary) + allocation(summary) + worst_tensors(summary);
  for (const TensorReport& tensor : summary.tensors)
    if (!tensor.fallback.empty()) text += fmt::format("\n  {}: {}", tensor.name, tensor.fallback);
  return text;
}

OperationResult run(const Params& params, const std::filesystem::path& output, Context& context) {
  const auto source = open_model(params.path("model"));
  const QuantizeSummary summary = quantize_model(*source, output, read_options(params), context);
  return {to_json(summary), !summary.fell_back() && is_loaded(summary), describe(summary)};
}

}  // namespace

extern const Operation kQuantizeOperation = {"quantize",
                                             6,
                                             "Choose codes and scales; writes a native quantized directory.",
                                             kParams,
                                             OutputKind::kDirectory,
                                             true,
                                             true,
                                             run,
                                             unheeded,
                                             /*on_device=*/true,
                                             needs_torch};

}  // namespace retort
