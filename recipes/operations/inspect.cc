#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/base/counts.h"
#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/text.h"
#include "core/checkpoint/inspection.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "Hugging Face directory, native quantized directory or GGUF file", true, true},
};

int64_t elements(const InspectedTensor& tensor) {
  int64_t count = 1;
  for (const int64_t size : tensor.shape) count *= size;
  return count;
}

int64_t parameters(const Inspection& found) {
  if (found.config) return found.config->parameters();
  int64_t total = 0;
  for (const InspectedTensor& tensor : found.tensors) total += elements(tensor);
  return total;
}

// The type that most weights of the model have; another tool's quantization goes by its own name.
std::string main_scheme(const Inspection& found) {
  if (!found.model && found.quantization.is_object()) return found.quantization.value("quant_method", "unknown");
  std::map<std::string, int64_t> counts;
  for (const InspectedTensor& tensor : found.tensors) {
    const auto match = found.model ? match_tensor(*found.config, tensor.name) : std::nullopt;
    const bool linear = !match || match->rule->input != Input::kNone;
    counts[tensor.type] += linear ? elements(tensor) : 0;
  }
  const auto most = largest_count(counts);
  return most == counts.end() ? "" : most->first;
}

Json tensors_json(const Inspection& found) {
  Json list = Json::array();
  for (const InspectedTensor& t : found.tensors)
    list.push_back({{"name", t.name}, {"shape", t.shape}, {"type", t.type}, {"bytes", t.bytes}});
  return list;
}

// Null without a tokenizer; one that cannot be read, or that does not fit the model, is a problem.
Json tokenizer_json(const std::string& model, const Inspection& found, Json& problems) {
  try {
    const auto tokenizer = open_tokenizer(model);
    const Vocabulary& v = tokenizer->vocabulary();
    if (found.config && tokenizer->size() > found.config->vocab_size)
      problems.push_back(
          fmt::format("the tokenizer has {} tokens, the model only {}", tokenizer->size(), found.config->vocab_size));
    return {{"kind", v.kind == Vocabulary::Kind::kByteLevelBpe ? "byte-level BPE" : "SentencePiece BPE"},
            {"tokens", tokenizer->size()},
            {"pre", v.pre}};
  } catch (const Error& e) {
    problems.push_back(e.what());
    return nullptr;
  }
}

Json template_json(const Inspection& found) {
  const std::string text = found.model ? found.model->chat_template() : "";
  if (text.empty()) return nullptr;
  return {{"bytes", text.size()}, {"digest", digest_of(text)}};
}

void add_config(const ModelConfig& c, Json& json) {
  json["layers"] = c.layers;
  json["hidden_size"] = c.hidden_size;
  json["ffn_size"] = c.ffn_size;
  json["heads"] = c.heads;
  json["kv_heads"] = c.kv_heads;
  json["head_dim"] = c.head_dim;
  json["tied_embeddings"] = c.tied_embeddings;
  json["eos_ids"] = c.eos_ids;
}

Json to_json(const std::string& model, const Inspection& found) {
  uint64_t bytes = 0;
  for (const InspectedTensor& tensor : found.tensors) bytes += tensor.bytes;
  Json problems = found.problems;
  Json json = {{"model", model},
               {"container", found.container},
               {"family", found.family},
               {"parameters", parameters(found)},
               {"scheme", main_scheme(found)},
               {"vocabulary", found.config ? Json(found.config->vocab_size) : Json()},
               {"context_length", found.config ? Json(found.config->context_length) : Json()},
               {"bytes", bytes},
               {"readable", found.model != nullptr}};
  if (found.config) add_config(*found.config, json);
  json["quantization"] = found.quantization;
  json["tokenizer"] = tokenizer_json(model, found, problems);
  json["chat_template"] = template_json(found);
  json["tensors"] = tensors_json(found);
  json["problems"] = problems;
  return json;
}

std::string shape_text(const Json& shape) {
  std::string text;
  for (const Json& size : shape) text += (text.empty() ? "" : " x ") + size.dump();
  return text;
}

// "model.layers.3.mlp.up_proj.weight" -> "model.layers.*.mlp.up_proj.weight"
std::string without_layer(const std::string& name) {
  std::string pattern;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool digit = name[i] >= '0' && name[i] <= '9';
    if (digit && !pattern.empty() && pattern.back() == '.') {
      while (i + 1 < name.size() && name[i + 1] >= '0' && name[i + 1] <= '9') ++i;
      pattern += '*';
    } else {
      pattern += name[i];
    }
  }
  return pattern;
}

// One line for each kind of tensor: those of different layers with one shape and type are one kind.
std::string tensor_table(const Json& tensors) {
  std::vector<std::pair<std::string, int>> kinds;
  for (const Json& tensor : tensors) {
    const std::string kind = fmt::format("{:<48} {:<14} {:<14}", without_layer(tensor["name"]),
                                         shape_text(tensor["shape"]), tensor["type"].get<std::string>());
    const auto known = std::ranges::find(kinds, kind, &std::pair<std::string, int>::first);
    if (known == kinds.end())
      kinds.emplace_back(kind, 1);
    else
      ++known->second;
  }
  std::string text;
  for (const auto& [kind, count] : kinds) text += fmt::format("  {} {:>5}\n", kind, count);
  return text;
}

std::string to_text(const Json& json) {
  std::string text;
  const auto line = [&](const char* label, const std::string& value) {
    if (!value.empty()) text += fmt::format("{:<16} {}\n", label, value);
  };
  line("model", json["model"]);
  line("container", json["container"]);
  line("family", json["family"]);
  line("parameters", json["parameters"].dump());
  line("scheme", json["scheme"]);
  line("size", format_bytes(json["bytes"].get<uint64_t>()));
  for (const char* key : {"vocabulary", "context_length", "layers", "hidden_size", "ffn_size", "heads", "kv_heads",
                          "head_dim", "tied_embeddings", "eos_ids"})
    if (json.contains(key) && !json[key].is_null()) line(key, json[key].dump());
  if (const Json& t = json["tokenizer"]; t.is_object())
    line("tokenizer", fmt::format("{}, {} tokens {}", t["kind"].get<std::string>(), t["tokens"].dump(),
                                  t["pre"].get<std::string>()));
  if (const Json& t = json["chat_template"]; t.is_object()) line("chat template", t["bytes"].dump() + " bytes");
  text += "tensors\n" + tensor_table(json["tensors"]);
  text += json["problems"].empty() ? "problems         none\n" : "problems\n";
  for (const Json& problem : json["problems"]) text += "  " + problem.get<std::string>() + "\n";
  text.pop_back();  // whoever prints it ends the line
  return text;
}

// A model that cannot be opened is not what was asked for: exit code 3, with everything that is known of it.
OperationResult run(const Params& params, const std::filesystem::path&, Context&) {
  const Inspection found = inspect_model(params.path("model"));
  const Json json = to_json(params.text("model"), found);
  return {.json = json, .as_asked = found.model != nullptr, .text = to_text(json)};
}

}  // namespace

extern const Operation kInspectOperation = {
    .name = "inspect",
    .version = 1,
    .summary = "What a model holds, and what is wrong with it",
    .params = kParams,
    .output = OutputKind::kNone,
    .stage = false,
    .resumable = false,
    .run = run,
};

}  // namespace retort
