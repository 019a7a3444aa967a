#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <span>
#include <utility>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/json.h"
#include "core/base/text.h"
#include "core/checkpoint/chat_templates.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/model_digest.h"
#include "export/card.h"
#include "export/exporter.h"
#include "export/modelfile.h"
#include "export/provenance.h"
#include "export/template_syntax.h"
#include "recipes/operations/rows.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr std::array kParams{
    ParamSpec{"model", ParamType::kModel, {}, "Hugging Face or native quantized directory, or GGUF file", true, true},
    ParamSpec{"format", ParamType::kText, {}, "gguf, onnx, gptq, awq, compressed-tensors, mlx or hf", true},
    ParamSpec{"type",
              ParamType::kText,
              {},
              "write every tensor dense in this type (gguf, onnx, hf); default: the model's own",
              false,
              false,
              "f32|f16|bf16"},
    ParamSpec{"fallback", ParamType::kText, "none",
              "write what the format does not hold as integers in this type (f32 is exact), and end with exit code 3",
              false, false, "none|f32|f16"},
    ParamSpec{
        "operators", ParamType::kText, "contrib",
        "onnx: contrib uses ONNX Runtime's MatMulNBits and GroupQueryAttention, standard only ONNX's own operators",
        false, false, "contrib|standard"},
    ParamSpec{"accuracy-level",
              ParamType::kInteger,
              "0",
              "onnx: 0 computes with the activations as they are, 4 quantizes them to 8 bit; no other has an effect",
              false,
              false,
              {},
              0,
              4},
    ParamSpec{"max-shard-size",
              ParamType::kSize,
              {},
              "files of weights with at most so many bytes; gguf: PATH is their directory"},
    ParamSpec{"modelfile", ParamType::kFlag, "false", "gguf: PATH is a directory, with a Modelfile for Ollama"},
    ParamSpec{"card", ParamType::kFlag, "false", "write README.md, the model card, into the directory PATH"},
    ParamSpec{"metrics", ParamType::kFile, {}, "card: the JSON that `eval` wrote for the model"},
    ParamSpec{"base-model", ParamType::kText, {}, "card and gguf: OWNER/NAME of the model that this one was made from"},
};

Json to_json(const ExportSummary& summary, const std::string& format, uint64_t bytes) {
  Json fallbacks = Json::array();
  for (const auto& [tensor, reason] : summary.fallbacks) fallbacks.push_back({{"tensor", tensor}, {"reason", reason}});
  return {{"format", format},
          {"tensors", summary.tensors},
          {"quantized_tensors", summary.quantized},
          {"output_bytes", bytes},
          {"peak_rss_bytes", peak_resident_bytes()},
          {"fallbacks", fallbacks},
          {"notes", summary.notes}};
}

// The file that lies in the directory of a GGUF model, the first of several; empty: another format, or a file.
std::string gguf_name_in(const fs::path& output) {
  return fs::is_directory(output) ? gguf_in_directory(output).filename().string() : std::string();
}

// Files beside the model. The result is what could not be said in them.
std::vector<std::string> write_extras(const Params& params, const ModelSource& source, const ExportOptions& options,
                                      const ExportSummary& summary, std::span<const Json> measured,
                                      const fs::path& output) {
  std::vector<std::string> problems;
  const std::string gguf = gguf_name_in(output);
  if (params.flag("modelfile")) {
    const Modelfile file = modelfile_of(source, gguf);
    write_text_file(output / "Modelfile", file.text);
    if (!file.problem.empty()) problems.push_back(file.problem);
  }
  const CardFiles files{.gguf = gguf, .modelfile = params.flag("modelfile")};
  if (params.flag("card")) write_text_file(output / "README.md", model_card(source, options, summary, measured, files));
  return problems;
}

// What no program can render, whatever the format: one sentence for each.
std::vector<std::string> broken_templates(const ModelSource& source) {
  std::vector<std::string> problems;
  for (const auto& [name, text] : chat_templates_of_side_files(source.side_files(), source.path().string()))
    if (const std::string error = template_syntax_error(text); !error.empty())
      problems.push_back("the chat template '" + name + "' cannot be rendered: " + error);
  return problems;
}

// Options of one format.
constexpr std::pair<std::string_view, std::string_view> kOnlyFor[] = {
    {"modelfile", "gguf"}, {"operators", "onnx"}, {"accuracy-level", "onnx"}};

std::string unheeded(const Params& params, std::string_view name) {
  const std::string asked = params.text("format");
  if (std::ranges::find(export_formats(), asked, &ExportFormat::name) == export_formats().end()) return {};
  for (const auto& [option, format] : kOnlyFor)
    if (option == name && asked != format) return "only --format " + std::string(format) + " has it";
  if (name == "max-shard-size" && asked == "onnx") return "--format onnx has its weights in one file";
  if ((name == "fallback" || name == "accuracy-level") && params.has("type"))
    return "with --type nothing is written as integers";
  if (name == "fallback" && asked == "hf") return "--format hf writes nothing as integers";
  return {};
}

// What does not go together is told before anything is written.
void check_options(const Params& params) {
  if (params.flag("modelfile") && params.has("max-shard-size"))
    fail_usage("options", "--modelfile", "Ollama reads no split models", "Leave out --max-shard-size");
  if (params.has("metrics") && !params.flag("card"))
    fail_usage("options", "--metrics", "it is for the model card", "Give --card");
  if (params.has("base-model") && !is_repository(params.text("base-model")))
    fail_usage("options", "--base-model", "'" + params.text("base-model") + "' is not the name of a repository",
               "Give OWNER/NAME");
  if (params.has("base-model") && !params.flag("card") && params.text("format") != "gguf")
    fail_usage("options", "--base-model", "it is for the model card and for GGUF", "Give --card");
  if (const int64_t level = params.integer("accuracy-level"); level != 0 && level != 4)
    fail_usage("options", "--accuracy-level", "with " + std::to_string(level) + " activations stay as they are",
               "Give 0, which says so, or 4");
}

OperationResult run_export(const Params& params, const fs::path& output, Context& context) {
  ExportOptions options;
  options.format = params.text("format");
  export_format(options.format);  // a wrong name is told before the model is opened
  check_options(params);
  if (params.has("max-shard-size")) options.max_shard_bytes = static_cast<uint64_t>(params.integer("max-shard-size"));
  if (params.has("type")) options.type = parse_dtype(params.text("type"));
  const std::string fallback = params.text("fallback");
  if (fallback != "none") options.fallback = parse_dtype(fallback);
  options.operators = params.text("operators");
  options.accuracy_level = params.integer("accuracy-level");
  if (params.has("base-model")) options.base_model = params.text("base-model");
  std::vector<Json> measured;
  if (params.has("metrics")) measured.push_back(read_measured(params.path("metrics")));
  const auto source = open_model(params.path("model"));
  for (const Json& json : measured)
    if (json.contains("model_digest"))
      check_measured(json, params.path("metrics"), digest_of_model(params.path("model")));
  const ExportSummary summary = export_model(*source, output, options, context);
  auto problems = broken_templates(*source);
  std::ranges::move(write_extras(params, *source, options, summary, measured, output), std::back_inserter(problems));
  const uint64_t bytes = bytes_below(output);
  std::string text = options.format + ": " + std::to_string(summary.tensors) + " tensors (" +
                     std::to_string(summary.quantized) + " quantized), " + format_bytes(bytes);
  for (const auto& [tensor, reason] : summary.fallbacks) text += "\nin " + fallback + ": " + tensor + ": " + reason;
  for (const std::string& problem : problems) text += "\n" + problem;
  for (const std::string& note : summary.notes) text += "\nnote: " + note;
  Json json = to_json(summary, options.format, bytes);
  json["problems"] = problems;
  return {json, summary.fallbacks.empty() && problems.empty(), text};
}

}  // namespace

const Operation kExportOperation{
    .name = "export",
    .version = 5,
    .summary = "write what other programs load: gguf, onnx, gptq, awq, compressed-tensors, mlx, hf",
    .params = kParams,
    .output = OutputKind::kByFormat,
    .stage = true,
    .resumable = false,
    .run = run_export,
    .unheeded = unheeded};

}  // namespace retort
