#include <algorithm>
#include <array>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/text.h"
#include "export/exporter.h"
#include "recipes/operations/rows.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr std::array kParams{
    ParamSpec{"model", ParamType::kModel, {}, "Hugging Face or native quantized directory, or GGUF file", true, true},
    ParamSpec{"format", ParamType::kText, {}, "gguf, onnx, gptq, awq, mlx or hf", true},
    ParamSpec{"type",
              ParamType::kText,
              {},
              "write every tensor dense in this type (gguf, onnx, hf); default: the model's own",
              false,
              false,
              "f32|f16|bf16"},
    ParamSpec{"fallback", ParamType::kText, "none",
              "f16: write what the format cannot hold exactly in 16 bit, and end with exit code 3", false, false,
              "none|f16"},
    ParamSpec{
        "operators", ParamType::kText, "contrib",
        "onnx: contrib uses ONNX Runtime's MatMulNBits and GroupQueryAttention, standard only ONNX's own operators",
        false, false, "contrib|standard"},
    ParamSpec{"accuracy-level",
              ParamType::kInteger,
              "0",
              "onnx: 0 computes with the activations as they are, 4 quantizes them to 8 bit",
              false,
              false,
              {},
              0,
              4},
};

uint64_t bytes_below(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::file_size(path);
  uint64_t total = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) total += entry.file_size();
  return total;
}

Json to_json(const ExportSummary& summary, const std::string& format, uint64_t bytes) {
  Json fallbacks = Json::array();
  for (const auto& [tensor, reason] : summary.fallbacks) fallbacks.push_back({{"tensor", tensor}, {"reason", reason}});
  return {{"format", format},
          {"tensors", summary.tensors},
          {"quantized_tensors", summary.quantized},
          {"output_bytes", bytes},
          {"fallbacks", fallbacks}};
}

OperationResult run_export(const Params& params, const fs::path& output, Context& context) {
  ExportOptions options;
  options.format = params.text("format");
  export_format(options.format);  // a wrong name is told before the model is opened
  if (params.has("type")) options.type = parse_dtype(params.text("type"));
  options.fallback_f16 = params.text("fallback") == "f16";
  options.operators = params.text("operators");
  options.accuracy_level = params.integer("accuracy-level");
  const auto source = open_model(params.path("model"));
  const ExportSummary summary = export_model(*source, output, options, context);
  const uint64_t bytes = bytes_below(output);
  std::string text = options.format + ": " + std::to_string(summary.tensors) + " tensors (" +
                     std::to_string(summary.quantized) + " quantized), " + format_bytes(bytes);
  for (const auto& [tensor, reason] : summary.fallbacks) text += "\nin f16: " + tensor + ": " + reason;
  return {to_json(summary, options.format, bytes), summary.fallbacks.empty(), text};
}

}  // namespace

const Operation kExportOperation{.name = "export",
                                 .version = 1,
                                 .summary = "write what other programs load: gguf, onnx, gptq, awq, mlx, hf",
                                 .params = kParams,
                                 .output = OutputKind::kByFormat,
                                 .stage = true,
                                 .resumable = false,
                                 .run = run_export};

}  // namespace retort
