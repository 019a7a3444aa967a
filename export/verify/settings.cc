#include "export/verify/settings.h"

#include <algorithm>
#include <utility>

namespace retort {
namespace {

const Json kNothing;

// Null, where the object has no such key.
const Json& at(const Json& object, const std::string& key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? kNothing : *found;
}

// One id and a list of it are the same.
Json as_list(const Json& id) { return id.is_null() || id.is_array() ? id : Json::array({id}); }

std::string text_of(const Json& value) { return value.is_null() ? "nothing" : value.dump(); }

Json generation_settings(const ModelSource& model) {
  const SideFile* file = model.side_file("generation_config.json");
  return file == nullptr ? Json() : parse_json(file->bytes, file->name);
}

// Where a program that reads no tokenizer takes it from.
Json token_id(const ModelSource& model, const Json& generation, const char* key) {
  const Json& id = at(generation, key);
  return id.is_null() ? at(model.config().json, key) : id;
}

Json end_of_text(const ModelSource& model, const Json& generation) {
  const Json named = token_id(model, generation, "eos_token_id");
  if (!named.is_null() || !has_tokenizer(model.side_files())) return named;
  const auto id = model.tokenizer()->vocabulary().eos;
  return id ? Json(*id) : Json();
}

using Names = std::pair<const char*, const char*>;
constexpr Names kInputs[] = {{"input_ids", "input_ids"},
                             {"attention_mask", "attention_mask"},
                             {"position_ids", "position_ids"},
                             {"past_key_names", "past_key_values.%d.key"},
                             {"past_value_names", "past_key_values.%d.value"}};
constexpr Names kOutputs[] = {
    {"logits", "logits"}, {"present_key_names", "present.%d.key"}, {"present_value_names", "present.%d.value"}};
constexpr const char* kSampling[] = {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty"};

}  // namespace

void append(std::vector<std::string>& lines, const std::vector<std::string>& more) {
  lines.insert(lines.end(), more.begin(), more.end());
}

std::set<std::string> texts_of(const Json& settings, const char* key) {
  std::set<std::string> texts;
  for (const Json& text : at(settings, key))
    if (text.is_string()) texts.insert(text.get<std::string>());
  return texts;
}

std::vector<std::string> setting_differences(const Json& settings, const char* key, const Json& right,
                                             const std::string& place) {
  const Json& found = at(settings, key);
  if (as_list(found) == as_list(right)) return {};
  return {place + ": " + key + ": " + text_of(found) + " instead of " + text_of(right)};
}

std::vector<std::string> config_differences(const Json& found, const ModelSource& model) {
  std::vector<std::string> lines;
  for (const char* key : {"model_type", "eos_token_id", "pad_token_id"})
    append(lines, setting_differences(found, key, at(model.config().json, key), "config.json"));
  return lines;
}

std::vector<std::string> quantization_differences(const Json& config, const Json& other, const std::string& place) {
  std::vector<std::string> lines;
  for (const auto& [key, value] : at(config, "quantization_config").items())
    if (other.contains(key) && SortedJson(other[key]) != SortedJson(value))  // keys have no order
      lines.push_back("config.json: quantization_config: " + key + ": " + text_of(value) + ", and in " + place + ": " +
                      text_of(other[key]));
  return lines;
}

std::vector<std::string> module_differences(const std::set<std::string>& listed, const std::set<std::string>& dense,
                                            const std::string& place) {
  std::vector<std::string> lines;
  if (std::ranges::any_of(listed, [](const std::string& name) { return name.starts_with("re:"); })) return lines;
  for (const std::string& module : listed)
    if (!dense.contains(module))
      lines.push_back(place + ": " + module + " is listed, and no dense matrix of the artifact");
  for (const std::string& module : dense)
    if (!listed.contains(module)) lines.push_back(place + ": " + module + " is dense, and not listed");
  return lines;
}

std::vector<std::string> fallback_differences(const std::vector<std::string>& listed,
                                              const std::set<std::string>& dense,
                                              const std::set<std::string>& rounded) {
  std::vector<std::string> lines;
  std::set<std::string> names;
  for (const std::string& note : listed) names.insert(note.substr(0, note.find(": ")));
  for (const std::string& name : names)
    if (!dense.contains(name)) lines.push_back("fallbacks: " + name + " is listed, and did not fall back");
  for (const std::string& name : rounded)
    if (!listed.empty() && !names.contains(name)) lines.push_back("fallbacks: " + name + " is rounded, and not listed");
  return lines;
}

std::vector<std::string> genai_differences(const Json& found, const ModelSource& model, bool shares_cache) {
  const std::string place = "genai_config.json";
  const Json generation = generation_settings(model);
  const Json eos = end_of_text(model, generation);
  const Json first = eos.is_array() && !eos.empty() ? eos.front() : eos;  // stands for a token that nothing names
  const Json &said = at(found, "model"), &decoder = at(said, "decoder"), &search = at(found, "search");
  std::vector<std::string> lines;
  const auto check = [&](const Json& settings, const char* key, const Json& right) {
    append(lines, setting_differences(settings, key, right, place));
  };
  check(said, "type", model.config().family->model_type);
  check(said, "eos_token_id", eos);
  for (const char* key : {"bos_token_id", "pad_token_id"}) {
    const Json named = token_id(model, generation, key);
    check(said, key, named.is_null() ? first : named);
  }
  check(decoder, "filename", "model.onnx");
  for (const auto& [key, name] : kInputs) check(at(decoder, "inputs"), key, name);
  for (const auto& [key, name] : kOutputs) check(at(decoder, "outputs"), key, name);
  check(search, "past_present_share_buffer", shares_cache);
  for (const char* key : kSampling)
    if (const Json& asked = at(generation, key); !asked.is_null()) check(search, key, asked);
  return lines;
}

}  // namespace retort
