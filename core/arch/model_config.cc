#include "core/arch/model_config.h"

#include <algorithm>
#include <numeric>

#include "core/arch/joined_family.h"
#include "core/base/error.h"
#include "core/base/text.h"

namespace retort {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 24;  // no dimension of a real model is larger; products stay below 2^63
constexpr int64_t kDefaultWindow = 4096, kDefaultWindowLayers = 28;  // what transformers takes where the key is absent

const Family& require_family(const Json& json, std::string_view label) {
  const auto type = json_required<std::string>(json, "model_type", label);
  if (const Family* family = find_family(type)) return *family;
  std::string known;
  for (const Family& family : families()) known.append(family.model_type).append(", ");
  for (const JoinedFamily& family : joined_families()) known.append(family.model_type).append(", ");
  known.resize(known.size() - 2);
  fail("config", label, "the model_type '" + type + "' is not supported", "Supported are " + known);
}

int64_t required_size(const Json& json, const char* key, std::string_view label) {
  const auto value = json_required<int64_t>(json, key, label);
  if (value < 1 || value > kMaxSize)
    fail("config", label, std::string(key) + " is " + std::to_string(value) + ", outside 1 to 2^24");
  return value;
}

int64_t optional_size(const Json& json, const char* key, int64_t fallback, std::string_view label) {
  const auto it = json.find(key);
  return it == json.end() || it->is_null() ? fallback : required_size(json, key, label);
}

void read_sizes(const Json& json, ModelConfig& c, std::string_view label) {
  c.vocab_size = required_size(json, "vocab_size", label);
  c.hidden_size = required_size(json, "hidden_size", label);
  c.ffn_size = required_size(json, "intermediate_size", label);
  c.layers = required_size(json, "num_hidden_layers", label);
  c.heads = required_size(json, "num_attention_heads", label);
  c.kv_heads = optional_size(json, "num_key_value_heads", c.heads, label);
  c.head_dim = optional_size(json, "head_dim", c.hidden_size / c.heads, label);
  c.context_length = optional_size(json, "max_position_embeddings", 2048, label);
  if (c.layers > 4096) fail("config", label, "num_hidden_layers is " + std::to_string(c.layers) + ", above 4096");
  if (c.heads % c.kv_heads != 0) fail("config", label, "num_key_value_heads does not divide num_attention_heads");
  if (c.head_dim < 2 || c.head_dim % 2 != 0) fail("config", label, "head_dim must be even and at least 2");
}

bool layer_slides(const Json& json, const ModelConfig& c, int64_t layer, std::string_view label) {
  const auto types = json.find("layer_types");
  if (types != json.end() && types->is_array()) {
    if (static_cast<int64_t>(types->size()) != c.layers) fail("config", label, "layer_types does not name every layer");
    const Json& type = (*types)[static_cast<size_t>(layer)];
    const bool known =
        type == "sliding_attention" || (type == "full_attention" && c.family->window == Family::Window::kUpperLayers);
    if (!known)
      fail("config", label,
           "the layer type " + type.dump() + " in layer_types is not supported in this family with a window");
    return type == "sliding_attention";
  }
  if (c.family->window == Family::Window::kEveryLayer) return true;
  return layer >= json_value<int64_t>(json, "max_window_layers", kDefaultWindowLayers, label);
}

void read_windows(const Json& json, ModelConfig& c, std::string_view label) {
  c.windows.assign(static_cast<size_t>(c.layers), 0);
  if (c.family->window == Family::Window::kNever) return;
  const bool upper = c.family->window == Family::Window::kUpperLayers;
  if (upper && !json_value(json, "use_sliding_window", false, label)) return;
  const bool named = json.contains("sliding_window");  // null: no window
  const int64_t window = named ? optional_size(json, "sliding_window", 0, label) : kDefaultWindow;
  for (int64_t layer = 0; layer < c.layers; ++layer)
    if (window > 0 && layer_slides(json, c, layer, label)) c.windows[static_cast<size_t>(layer)] = window;
}

bool read_bias(const Json& json, const char* key, bool known, std::string_view label) {
  const bool bias = json_value(json, key, false, label);
  if (bias && !known) fail("config", label, std::string(key) + " is not supported in this family");
  return bias;
}

void read_biases(const Json& json, ModelConfig& c, std::string_view label) {
  const bool attention = read_bias(json, "attention_bias", c.family->attention_bias, label);
  c.qkv_bias = attention || c.family->always_qkv_bias;
  c.output_bias = attention;
  c.mlp_bias = read_bias(json, "mlp_bias", c.family->mlp_bias, label);
}

void read_token_ids(const Json& json, ModelConfig& c, std::string_view label) {
  const auto bos = json.find("bos_token_id");
  if (bos != json.end() && bos->is_number_integer()) c.bos_id = bos->get<int64_t>();
  const auto eos = json.find("eos_token_id");
  if (eos == json.end() || eos->is_null()) return;
  for (const Json& id : eos->is_array() ? *eos : Json::array({*eos})) {
    if (!id.is_number_integer()) fail("config", label, "eos_token_id is not a number or a list of numbers");
    c.eos_ids.push_back(id.get<int64_t>());
  }
}

DType read_dtype(const Json& json, std::string_view label) {
  const auto name =
      json_value<std::string>(json, "dtype", json_value<std::string>(json, "torch_dtype", "float32", label), label);
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  if (name == "bfloat16") return DType::kBF16;
  fail("config", label, "the dtype '" + name + "' is not supported", "Supported are float32, float16 and bfloat16");
}

ModelConfig parse_as_family(const Json& json, std::string_view label) {
  ModelConfig c;
  c.json = json;
  c.family = &require_family(json, label);
  const auto activation = json_value<std::string>(json, "hidden_act", "silu", label);
  if (activation != "silu" && activation != "swish")
    fail("config", label, "the activation '" + activation + "' is not supported", "Supported is silu");
  read_sizes(json, c, label);
  c.norm_eps = json_value(json, "rms_norm_eps", 1e-6, label);
  c.tied_embeddings = json_value(json, "tie_word_embeddings", false, label);
  read_biases(json, c, label);
  c.rope = parse_rope(json, c.head_dim, c.context_length, label);
  read_windows(json, c, label);
  read_token_ids(json, c, label);
  c.dtype = read_dtype(json, label);
  return c;
}

}  // namespace

ModelConfig parse_config(const Json& json, std::string_view label) {
  if (!json.is_object()) fail("config", label, "not a JSON object");
  const JoinedFamily* joined = find_joined_family(json_required<std::string>(json, "model_type", label));
  ModelConfig c = parse_as_family(joined == nullptr ? json : restated_config(json, *joined), label);
  c.stored_as = joined;
  return c;
}

int64_t ModelConfig::parameters() const {
  int64_t total = 0;
  for (const ExpectedTensor& tensor : expected_tensors(*this))
    total += std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
  return total;
}

Json config_with_layers(const ModelConfig& config, const std::vector<int64_t>& kept) {
  Json json = config.json;
  json["num_hidden_layers"] = kept.size();
  if (const auto types = config.json.find("layer_types"); types != config.json.end() && types->is_array()) {
    Json kept_types = Json::array();
    for (const int64_t layer : kept) kept_types.push_back((*types)[static_cast<size_t>(layer)]);
    json["layer_types"] = kept_types;
  } else if (json.contains("max_window_layers") && json["max_window_layers"].is_number_integer()) {
    const auto bound = json["max_window_layers"].get<int64_t>();
    json["max_window_layers"] = std::count_if(kept.begin(), kept.end(), [&](int64_t layer) { return layer < bound; });
  }
  return json;
}

}  // namespace retort
