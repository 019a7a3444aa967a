#include "export/card.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "core/base/error.h"
#include "core/base/json.h"
#include "export/provenance.h"

namespace retort {
namespace {

constexpr const char* kModelDigest = "model_digest";  // of `retort eval`

// How a program loads an artifact; "{}" stands for its GGUF file.
struct Loader {
  std::string_view format, program, command;
  std::optional<bool> zero_points = {};  // of artifacts with them, or of those without, only
  bool modelfile = false;                // only with a Modelfile
};
constexpr std::string_view kTransformers =
    "python -c \"import transformers as t; t.AutoModelForCausalLM.from_pretrained('.')\"";
constexpr std::array kLoaders{
    Loader{"gguf", "llama.cpp", "llama-cli -m {} -p \"Once upon a time\""},
    Loader{"gguf", "llama-cpp-python",
           "python -c \"import llama_cpp; print(llama_cpp.Llama('{}')('Once upon a time'))\""},
    Loader{"gguf", "Retort", "retort generate {} --prompt \"Once upon a time\""},
    Loader{"gguf", "Ollama", "ollama create model -f Modelfile && ollama run model \"Once upon a time\"", {}, true},
    Loader{"onnx", "onnxruntime-genai",
           "python -c \"import onnxruntime_genai as og; m = og.Model('.'); t = og.Tokenizer(m); "
           "g = og.Generator(m, og.GeneratorParams(m)); g.append_tokens(t.encode('Once upon a time')); "
           "[g.is_done() or g.generate_next_token() for _ in range(32)]; print(t.decode(g.get_sequence(0)))\""},
    Loader{"gptq", "GPTQModel", "python -c \"from gptqmodel import GPTQModel; GPTQModel.load('.')\""},
    Loader{"gptq", "transformers", kTransformers},
    Loader{"gptq", "vLLM", "vllm serve ."},
    Loader{"awq", "GPTQModel", "python -c \"from gptqmodel import GPTQModel; GPTQModel.load('.')\""},
    Loader{"awq", "transformers", kTransformers},
    Loader{"awq", "vLLM", "vllm serve ."},
    Loader{"awq", "mlx-lm", "mlx_lm.generate --model . --prompt \"Once upon a time\""},
    Loader{"compressed-tensors", "vLLM", "vllm serve ."},
    Loader{"compressed-tensors", "transformers", kTransformers, false},
    Loader{"compressed-tensors", "transformers",
           "python -c \"import transformers as t; t.AutoModelForCausalLM.from_pretrained('.', "
           "quantization_config=t.CompressedTensorsConfig(dequantize=True))\"",
           true},
    Loader{"mlx", "mlx-lm", "mlx_lm.generate --model . --prompt \"Once upon a time\""},
    Loader{"hf", "transformers", kTransformers},
};

std::string library_of(const std::string& format) {
  return format == "gguf" || format == "onnx" || format == "mlx" ? format : "transformers";
}

std::string number(const Json& value) {
  if (value.is_number_integer()) return value.dump();
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", value.get<double>());
  return text;
}

std::string front_matter(const std::string& base, const std::string& format, bool quantized) {
  std::string text = "---\n";
  if (!base.empty()) text += "base_model: " + base + "\n";
  if (!base.empty() && quantized) text += "base_model_relation: quantized\n";
  return text + "library_name: " + library_of(format) + "\ntags:\n- " + format + "\n- retort\n---\n\n";
}

std::string or_unknown(const std::string& text) { return text.empty() ? "not recorded in the model" : text; }

std::string facts(const ModelSource& source, const Provenance& provenance, const ExportOptions& options,
                  const ExportSummary& summary) {
  const bool integers = summary.quantized > 0;
  std::string text = "| | |\n| --- | --- |\n";
  const auto row = [&](const std::string& name, const std::string& value) {
    text += "| " + name + " | " + value + " |\n";
  };
  row("base model", options.base_model.empty() ? "not named" : options.base_model);
  row("family", std::string(source.config().family->model_type));
  row("parameters", std::to_string(source.config().parameters()));
  row("context", std::to_string(source.config().context_length) + " tokens");
  row("format", options.format);
  row("scheme", integers ? or_unknown(provenance.scheme) : "none: dense tensors");
  if (integers) row("method", or_unknown(provenance.method));
  if (integers && !provenance.scale_type.empty()) row("scales", provenance.scale_type);
  if (integers) row("calibration", provenance.calibration.empty() ? "none recorded" : provenance.calibration);
  row("tensors", std::to_string(summary.tensors) + ", " + std::to_string(summary.quantized) + " of them as integers");
  if (!provenance.template_digest.empty()) row("chat template (XXH3)", "`" + provenance.template_digest + "`");
  if (!provenance.tokenizer_digest.empty())
    row("tokenizer (XXH3 of test ids)", "`" + provenance.tokenizer_digest + "`");
  for (const auto& [tensor, reason] : summary.fallbacks)
    row("in " + std::string(name_of(*options.fallback)), "`" + tensor + "`: " + reason);
  return text;
}

// The last part of a path: a card names no directories.
std::string name_at(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string()) return "none";
  std::filesystem::path path = std::filesystem::path(found->get<std::string>()).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().string();
}

std::string measurement(const Json& json) {
  const auto text_of = [&](const char* key) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) return std::string("not measured");
    return found->is_number() ? number(*found) : found->is_string() ? found->get<std::string>() : found->dump();
  };
  std::string line = "| " + text_of("convention") + " | " + name_at(json, "text") + " |";
  for (const char* key : {"tokens", "perplexity"}) line += " " + text_of(key) + " |";
  line += " " + name_at(json, "reference") + " |";
  for (const char* key : {"kl_mean", "kl_p99", "kl_max", "top1_agreement"}) line += " " + text_of(key) + " |";
  return line + "\n";
}

// How the numbers of the artifact are those of the model.
std::string kinship(const ExportOptions& options, const ExportSummary& summary) {
  if (options.type && options.type != DType::kF32)
    return "; this artifact has its numbers in " + std::string(name_of(*options.type)) + " and was not measured itself";
  if (options.fallback && options.fallback != DType::kF32 && !summary.fallbacks.empty())
    return "; this artifact has " + std::to_string(summary.fallbacks.size()) + " of its tensors in " +
           std::string(name_of(*options.fallback)) + " and was not measured itself";
  return ", whose numbers it holds";
}

std::string measured_on(std::span<const Json> measured, const ExportOptions& options, const ExportSummary& summary) {
  if (!std::ranges::all_of(
          measured, [](const Json& json) { return json.contains(kModelDigest) && json[kModelDigest].is_string(); }))
    return "The figures do not say which model they were measured on";
  return "Measured by `retort eval` on the model that this artifact was made from" + kinship(options, summary);
}

std::string quality(std::span<const Json> measured, const ExportOptions& options, const ExportSummary& summary) {
  if (measured.empty()) return "Perplexity and divergence were not measured for this card.\n";
  std::string text =
      measured_on(measured, options, summary) +
      ". KL is that of the reference from this model, in nats per token, over the same scored positions.\n\n"
      "| convention | text | tokens scored | perplexity | reference | mean KL | 99th percentile of KL | largest KL | "
      "same first token |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const Json& json : measured) text += measurement(json);
  return text +
         "\n`windows-N`: windows of N tokens that do not overlap, tokens 2 to N scored. `llama.cpp-N`: the second half "
         "of each window scored, as llama-perplexity does.\n";
}

std::string loaders(const ModelSource& source, const std::string& format, const CardFiles& files) {
  const bool zeros = std::ranges::any_of(source.tensors(), [](const ModelTensor& t) { return t.scheme.has_zeros(); });
  std::string text;
  for (const Loader& loader : kLoaders) {
    if (loader.format != format || loader.zero_points.value_or(zeros) != zeros) continue;
    if (loader.modelfile && !files.modelfile) continue;
    std::string command(loader.command);
    for (size_t at; (at = command.find("{}")) != std::string::npos;) command.replace(at, 2, files.gguf);
    text += std::string(loader.program) + ":\n\n```sh\n" + command + "\n```\n\n";
  }
  return text;
}

}  // namespace

Json read_measured(const std::filesystem::path& path) {
  Json json = read_json_file(path);
  if (!json.is_object() || !json.contains("perplexity"))
    fail("export", path.string(), "it is not a JSON object of `retort eval`",
         "Write it with `retort eval ... --output`");
  return json;
}

void check_measured(const Json& measured, const std::filesystem::path& path, const std::string& digest) {
  const auto said = json_value<std::string>(measured, kModelDigest, digest, path.string());
  if (said != digest)
    fail("export", path.string(), "it was measured on another model than the one that is exported",
         "Measure this one with `retort eval`, or leave out --metrics");
}

std::string model_card(const ModelSource& source, const ExportOptions& options, const ExportSummary& summary,
                       std::span<const Json> measured, const CardFiles& files) {
  const std::string id = options.base_model.empty() ? model_id_of(source.config()) : options.base_model;
  const std::string name = id.substr(id.find('/') + 1);
  return front_matter(options.base_model, options.format, summary.quantized > 0) + "# " +
         (name.empty() ? "Model" : name) + ", " + options.format + "\n\n" +
         facts(source, provenance_of(source), options, summary) + "\n## Quality\n\n" +
         quality(measured, options, summary) + "\n## Loading\n\nIn this directory:\n\n" +
         loaders(source, options.format, files);
}

}  // namespace retort
