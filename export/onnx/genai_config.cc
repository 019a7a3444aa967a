#include "export/onnx/genai_config.h"

#include <algorithm>

#include "export/onnx/attention.h"

namespace retort {
namespace {

// The program reserves a cache for this many tokens unless its caller asks for another length.
constexpr int64_t kDefaultLength = 4096;

Json generation_settings(const ModelSource& source) {
  const SideFile* file = source.side_file("generation_config.json");
  return file == nullptr ? Json::object() : parse_json(file->bytes, file->name);
}

// The value of generation_config.json or, where that is silent, of config.json.
Json setting(const Json& generation, const Json& config, const char* key, const Json& fallback) {
  for (const Json* json : {&generation, &config})
    if (const auto found = json->find(key); found != json->end() && !found->is_null()) return *found;
  return fallback;
}

// As the JSON files say or else the tokenizer; null: nothing says it.
Json end_of_text(const ModelSource& source, const Json& generation) {
  const Json eos = setting(generation, source.config().json, "eos_token_id", nullptr);
  if (!eos.is_null() || !has_tokenizer(source.side_files())) return eos;
  const auto tokenizer = source.tokenizer();
  const std::optional<int32_t> id = tokenizer->vocabulary().eos;
  return id ? Json(*id) : Json();
}

Json session_options(OnnxOperators operators, int64_t accuracy_level) {
  Json options{{"log_id", "onnxruntime-genai"}, {"provider_options", Json::array()}};
  if (operators == OnnxOperators::kStandard)
    options["session.qdq_matmulnbits_accuracy_level"] = std::to_string(accuracy_level);
  return options;
}

Json decoder(const ModelConfig& c, const Json& session) {
  return {
      {"session_options", session},
      {"filename", "model.onnx"},
      {"head_size", c.head_dim},
      {"hidden_size", c.hidden_size},
      {"num_attention_heads", c.heads},
      {"num_hidden_layers", c.layers},
      {"num_key_value_heads", c.kv_heads},
      {"inputs",
       {{"input_ids", "input_ids"},
        {"attention_mask", "attention_mask"},
        {"position_ids", "position_ids"},
        {"past_key_names", "past_key_values.%d.key"},
        {"past_value_names", "past_key_values.%d.value"}}},
      {"outputs",
       {{"logits", "logits"}, {"present_key_names", "present.%d.key"}, {"present_value_names", "present.%d.value"}}}};
}

}  // namespace

Json genai_config(const ModelSource& source, OnnxOperators operators, int64_t accuracy_level) {
  const ModelConfig& c = source.config();
  const Json generation = generation_settings(source);
  const Json eos = end_of_text(source, generation);
  const Json first_eos = eos.is_array() && !eos.empty() ? eos.front() : eos;
  Json model{{"type", std::string(c.family->model_type)},
             {"vocab_size", c.vocab_size},
             {"context_length", c.context_length},
             {"bos_token_id", setting(generation, c.json, "bos_token_id", first_eos)},
             {"eos_token_id", eos},
             {"pad_token_id", setting(generation, c.json, "pad_token_id", first_eos)},
             {"decoder", decoder(c, session_options(operators, accuracy_level))}};
  for (const char* id : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (model[id].is_null()) model.erase(id);
  const Json search{{"max_length", std::min(c.context_length, kDefaultLength)},
                    {"past_present_share_buffer", uses_grouped_attention(c, operators)},
                    {"do_sample", setting(generation, Json::object(), "do_sample", false)},
                    {"temperature", setting(generation, Json::object(), "temperature", 1.0)},
                    {"top_k", setting(generation, Json::object(), "top_k", 50)},
                    {"top_p", setting(generation, Json::object(), "top_p", 1.0)},
                    {"repetition_penalty", setting(generation, Json::object(), "repetition_penalty", 1.0)}};
  return {{"model", model}, {"search", search}};
}

}  // namespace retort
