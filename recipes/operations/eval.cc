#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/model_digest.h"
#include "eval/perplexity.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "the model to score", true, true},
    {"text", ParamType::kFile, "", "what it is scored on: a file, or a directory of .txt and .md files", true},
    {"convention", ParamType::kText, "",
     "windows-N or llama.cpp-N, windows of N tokens (default: windows-512, or the model's context length if shorter)"},
    {"reference", ParamType::kModel, "", "also measure the divergence from this model, in nats per token"},
    {"max-tokens", ParamType::kInteger, "0", "use the first N tokens; 0: all"},
    {"backend", ParamType::kText, "", "default: torch in float32, and runtime for quantized models", false, false,
     "torch|runtime"},
};

struct Text {
  std::vector<int32_t> ids;
  std::optional<int32_t> bos;  // where the tokenizer adds one
};

// Both models must read the text as the same tokens: probabilities of different ones cannot be compared.
Text tokenize(const ModelSource& model, const ModelSource* reference, const std::string& text) {
  const auto tokenizer = model.tokenizer();
  const Vocabulary& vocabulary = tokenizer->vocabulary();
  Text result{tokenizer->encode(text), vocabulary.add_bos ? vocabulary.bos : std::nullopt};
  if (reference && reference->tokenizer()->encode(text) != result.ids)
    fail("eval", reference->path().string(), "its tokenizer reads the text differently from that of the model",
         "Compare models of one vocabulary");
  return result;
}

// How the result reads: one line for each key that is there.
struct Line {
  const char *name, *key, *format, *unit;
};
constexpr Line kLines[] = {
    {"model", "model", "{}", ""},
    {"reference", "reference", "{}", ""},
    {"text", "text", "{}", ""},
    {"convention", "convention", "{}", ""},
    {"tokens scored", "tokens", "{}", ""},
    {"perplexity", "perplexity", "{:.4f}", ""},
    {"KL mean", "kl_mean", "{:.6f}", " nats per token"},
    {"KL p99", "kl_p99", "{:.6f}", " nats"},
    {"KL max", "kl_max", "{:.6f}", " nats"},
    {"top-1 agreement", "top1_agreement", "{:.4f}", ""},
    {"time", "seconds", "{:.2f}", " s"},
    {"speed", "tokens_per_second", "{:.0f}", " tokens/s"},
    {"backend", "backend", "{}", ""},
};

std::string shown(const Json& value, const char* format) {
  if (value.is_number_float()) return fmt::format(fmt::runtime(format), value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string text_of(const Json& json) {
  std::string text;
  for (const auto& [name, key, format, unit] : kLines)
    if (json.contains(key))
      text += fmt::format("{}{:<16}{}{}", text.empty() ? "" : "\n", name, shown(json[key], format), unit);
  return text;
}

Json to_json(const Params& params, const Convention& convention, const EvalResult& result, std::string_view backend) {
  Json json = {{"model", params.text("model")}, {"model_digest", digest_of_model(params.path("model"))},
               {"text", params.text("text")},   {"convention", name_of(convention)},
               {"tokens", result.tokens},       {"perplexity", result.perplexity}};
  if (result.divergence) {
    json["reference"] = params.text("reference");
    json["kl_mean"] = result.divergence->kl_mean;
    json["kl_p99"] = result.divergence->kl_p99;
    json["kl_max"] = result.divergence->kl_max;
    json["top1_agreement"] = result.divergence->top1_agreement;
  }
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = static_cast<double>(result.tokens) / result.seconds;
  json["backend"] = backend;
  return json;
}

OperationResult run(const Params& params, const std::filesystem::path&, Context& context) {
  const auto model = open_model(params.path("model"));
  const auto reference = params.has("reference") ? open_model(params.path("reference")) : nullptr;
  const Convention convention =
      params.has("convention") ? parse_convention(params.text("convention")) : default_convention(model->config());
  const int64_t limit = params.integer("max-tokens");
  const std::string backend = params.has("backend") ? params.text("backend") : "";
  Text text = tokenize(*model, reference.get(), read_corpus(params.path("text")));
  if (limit > 0 && static_cast<size_t>(limit) < text.ids.size()) text.ids.resize(static_cast<size_t>(limit));
  const auto scored = make_source(*model, backend, context);
  // A reference is the truth to compare with: quantized or not, it is taken by the rule, never by --backend.
  const auto truth = reference ? make_source(*reference, "", context) : nullptr;
  const EvalResult result = evaluate(*scored, truth.get(), text.ids, convention, text.bos, context);
  const Json json = to_json(params, convention, result, scored->backend());
  return {.json = json, .text = text_of(json)};
}

// Which backend scores a model is known when it is open: LibTorch may be asked for unless all is said.
bool needs_torch(const Params& params) {
  return params.has("reference") || !params.has("backend") || params.text("backend") != "runtime";
}

}  // namespace

const Operation kEvalOperation{.name = "eval",
                               .version = 3,
                               .summary = "Perplexity of a model, and its divergence from a reference",
                               .params = kParams,
                               .output = OutputKind::kNone,
                               .stage = true,
                               .resumable = false,
                               .run = run,
                               .on_device = true,
                               .needs_torch = needs_torch};

}  // namespace retort
