#include "core/checkpoint/gguf_model.h"

#include <algorithm>

#include "core/arch/joined_family.h"
#include "core/base/error.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/gguf_vocabulary.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

constexpr std::string_view kOwnKeys = "retort.";

// The metadata of one architecture: key("block_count") is "llama.block_count".
class Keys {
 public:
  Keys(const GgufHeader& header, std::string architecture, std::string_view label)
      : header_(header), prefix_(std::move(architecture) + "."), label_(label) {}

  std::optional<int64_t> integer(const char* key) const { return header_.integer(prefix_ + key); }
  std::optional<double> number(const char* key) const { return header_.number(prefix_ + key); }
  std::optional<std::string> string(const char* key) const { return header_.string(prefix_ + key); }
  int64_t required(const char* key) const {
    if (const auto value = integer(key)) return *value;
    fail("gguf", label_, "the key '" + prefix_ + key + "' is missing");
  }

 private:
  const GgufHeader& header_;
  std::string prefix_;
  std::string_view label_;
};

std::string architecture_of(const GgufHeader& header, std::string_view label) {
  const auto name = header.string("general.architecture");
  if (!name) fail("gguf", label, "the key 'general.architecture' is missing: not a model");
  return *name;
}

// GGUF says "llama" for Mistral too: the family with a window is the one, where the file has one.
const Family& family_of(const std::string& architecture, int64_t window, std::string_view label) {
  if (const JoinedFamily* joined = find_joined_family_by_gguf(architecture)) return *find_family(joined->read_as);
  const Family* first = find_family_by_gguf(architecture);
  if (first == nullptr) fail("gguf", label, "the architecture '" + architecture + "' is not supported");
  if (window == 0) return *first;
  for (const Family& family : families())
    if (family.gguf_architecture == architecture && family.window == Family::Window::kEveryLayer) return family;
  fail("gguf", label, "a sliding window is not supported in the architecture '" + architecture + "'");
}

void read_sizes(const Keys& keys, const GgufHeader& header, std::string_view label, Json& config) {
  const GgufTensorInfo* embedding = header.find_tensor("token_embd.weight");
  if (embedding == nullptr) fail("gguf", label, "the tensor 'token_embd.weight' is missing");
  config["vocab_size"] = embedding->shape.front();
  config["hidden_size"] = keys.required("embedding_length");
  config["intermediate_size"] = keys.required("feed_forward_length");
  config["num_hidden_layers"] = keys.required("block_count");
  const int64_t heads = keys.required("attention.head_count");
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] = keys.integer("attention.head_count_kv").value_or(heads);
  if (heads < 1) fail("gguf", label, "attention.head_count is " + std::to_string(heads));
  const int64_t head_dim = keys.integer("attention.key_length").value_or(keys.required("embedding_length") / heads);
  config["head_dim"] = head_dim;
  config["max_position_embeddings"] = keys.required("context_length");
  if (keys.integer("attention.value_length").value_or(head_dim) != head_dim)
    fail("gguf", label, "keys and values of different lengths are not supported");
  if (keys.integer("rope.dimension_count").value_or(head_dim) != head_dim)
    fail("gguf", label, "rotary embeddings of a part of the head are not supported");
  if (keys.integer("expert_count").value_or(0) != 0) fail("gguf", label, "mixtures of experts are not supported");
}

// llama.cpp multiplies the factor that YaRN advises by the one in the file.
Json yarn_of(const Keys& keys, double factor) {
  Json rope{{"rope_type", "yarn"}, {"factor", factor}};
  rope["attention_factor"] = yarn_attention_factor(factor) * keys.number("rope.scaling.attn_factor").value_or(1.0);
  if (const auto fast = keys.number("rope.scaling.yarn_beta_fast")) rope["beta_fast"] = *fast;
  if (const auto slow = keys.number("rope.scaling.yarn_beta_slow")) rope["beta_slow"] = *slow;
  return rope;
}

Json longrope_of(const Keys& keys, const GgufRopeFactors& factors) {
  return {{"rope_type", "longrope"},
          {"short_factor", factors.short_factors},
          {"long_factor", factors.long_factors},
          {"attention_factor", keys.number("rope.scaling.attn_factor").value_or(1.0)}};
}

void read_rope(const Keys& keys, const GgufRopeFactors& factors, std::string_view label, Json& config) {
  Json rope{{"rope_theta", keys.number("rope.freq_base").value_or(10000.0)}, {"rope_type", "default"}};
  // llama.cpp takes the factors of LongRoPE where they are, whatever the type.
  const bool longrope = !factors.short_factors.empty();
  const auto type = keys.string("rope.scaling.type").value_or(longrope ? "longrope" : "none");
  if (longrope && type != "longrope")
    fail("gguf", label, "factors of LongRoPE and the rope scaling '" + type + "' are combined");
  const double old_scale = keys.number("rope.scale_linear").value_or(1.0);
  const double factor = keys.number("rope.scaling.factor").value_or(type == "none" ? old_scale : 1.0);
  if (type != "none" && type != "linear" && type != "yarn" && type != "longrope")
    fail("gguf", label, "the rope scaling '" + type + "' is not supported",
         "Supported are none, linear, yarn and longrope");
  if (!factors.plain.empty() && factor != 1.0)
    fail("gguf", label, "rope_freqs.weight and a rope scaling factor are combined");
  if (type == "yarn") rope.update(yarn_of(keys, factor));
  if (type == "longrope") rope.update(longrope_of(keys, factors));
  if (type == "yarn" || type == "longrope") {
    rope["original_max_position_embeddings"] =
        keys.integer("rope.scaling.original_context_length").value_or(keys.required("context_length"));
  } else if (!factors.plain.empty()) {
    rope["rope_type"] = "factors";
    rope["factors"] = factors.plain;
  } else if (factor != 1.0) {
    rope["rope_type"] = "linear";
    rope["factor"] = factor;
  }
  config["rope_parameters"] = rope;
}

bool has_tensor(const GgufHeader& header, const Family& family, Role role, Part part) {
  for (const TensorRule& rule : family.tensors)
    if (rule.role == role && rule.part == part) return header.find_tensor(gguf_name(rule, 0)) != nullptr;
  return false;
}

void read_switches(const GgufHeader& header, const Family& family, Json& config) {
  config["tie_word_embeddings"] = !has_tensor(header, family, Role::kHead, Part::kWeight);
  if (family.attention_bias) config["attention_bias"] = has_tensor(header, family, Role::kAttentionOutput, Part::kBias);
  if (family.mlp_bias) config["mlp_bias"] = has_tensor(header, family, Role::kDown, Part::kBias);
}

// Ids that are not set are absent, or -1 in the width of the field.
std::optional<int32_t> token_id(const GgufHeader& header, const std::string& key) {
  const auto id = header.integer("tokenizer.ggml." + key);
  return id && *id >= 0 && *id < INT32_MAX ? std::optional(static_cast<int32_t>(*id)) : std::nullopt;
}

void read_token_ids(const GgufHeader& header, Json& config) {
  if (const auto bos = token_id(header, "bos_token_id")) config["bos_token_id"] = *bos;
  Json ends = Json::array();
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"})
    if (const auto id = token_id(header, key); id && std::ranges::find(ends, Json(*id)) == ends.end())
      ends.push_back(*id);
  if (ends.size() == 1) config["eos_token_id"] = ends[0];
  if (ends.size() > 1) config["eos_token_id"] = ends;
}

// Dense files say the type of their weights; a quantized model computes in any, and half precision fits all.
std::string dtype_of(const GgufHeader& header) {
  const GgufTensorInfo* tensor = header.find_tensor("blk.0.attn_output.weight");
  const GgmlType* type = tensor == nullptr ? nullptr : find_ggml_type(tensor->type);
  if (type != nullptr && type->name == "F32") return "float32";
  return type != nullptr && type->name == "BF16" ? "bfloat16" : "float16";
}

// What the file says of itself, as in a directory. JSON is UTF-8.
void read_self(const GgufHeader& header, std::string_view label, Json& config) {
  for (const auto& [key, value] : header.metadata) {
    const auto* text = std::get_if<std::string>(&value);
    if (text == nullptr || !key.starts_with(kOwnKeys)) continue;
    for (const std::string_view part : {std::string_view(key), std::string_view(*text)})
      if (valid_utf8_prefix(part) != part.size()) fail("gguf", label, "a text of the keys 'retort.*' is not UTF-8");
    config["retort"][key.substr(kOwnKeys.size())] = *text;
  }
}

void read_tokens(const GgufHeader& header, std::string_view label, Vocabulary& vocabulary) {
  const auto* texts = header.strings("tokenizer.ggml.tokens");
  if (texts == nullptr) fail("gguf", label, "the key 'tokenizer.ggml.tokens' is missing");
  const auto* scores = header.numbers("tokenizer.ggml.scores");
  const auto* types = header.integers("tokenizer.ggml.token_type");
  if ((scores != nullptr && scores->size() != texts->size()) || (types != nullptr && types->size() != texts->size()))
    fail("gguf", label, "the tokens, their scores and their types are not equally many");
  for (size_t i = 0; i < texts->size(); ++i) {
    VocabularyEntry entry{.text = (*texts)[i]};
    if (scores != nullptr) entry.score = static_cast<float>((*scores)[i]);
    const int64_t type = types == nullptr ? 1 : (*types)[i];
    if (type < 0 || type > 6) fail("gguf", label, "the token type " + std::to_string(type) + " is not known");
    entry.type = static_cast<TokenType>(std::max<int64_t>(type, 1));  // 0: not defined
    vocabulary.tokens.push_back(std::move(entry));
  }
}

void check_token_ids(const Vocabulary& vocabulary, std::string_view label) {
  for (const auto& id : {vocabulary.bos, vocabulary.eos, vocabulary.unknown, vocabulary.padding})
    if (id && static_cast<size_t>(*id) >= vocabulary.tokens.size())
      fail("gguf", label, "the special token " + std::to_string(*id) + " is not in the vocabulary");
}

}  // namespace

Json config_of_gguf(const GgufHeader& header, const GgufRopeFactors& factors, std::string_view label) {
  const std::string architecture = architecture_of(header, label);
  const Keys keys(header, architecture, label);
  const int64_t window = keys.integer("attention.sliding_window").value_or(0);
  const Family& family = family_of(architecture, window, label);
  const JoinedFamily* joined = find_joined_family_by_gguf(architecture);
  Json config{{"architectures", {family.architecture}},
              {"model_type", joined == nullptr ? family.model_type : joined->model_type},
              {"hidden_act", "silu"}};
  read_sizes(keys, header, label, config);
  const auto eps = keys.number("attention.layer_norm_rms_epsilon");
  if (!eps) fail("gguf", label, "the key 'attention.layer_norm_rms_epsilon' is missing");
  config["rms_norm_eps"] = *eps;
  read_rope(keys, factors, label, config);
  read_switches(header, family, config);
  if (family.window == Family::Window::kEveryLayer) config["sliding_window"] = window == 0 ? Json() : Json(window);
  read_token_ids(header, config);
  config["dtype"] = dtype_of(header);
  read_self(header, label, config);
  return config;
}

Vocabulary vocabulary_of_gguf(const GgufHeader& header, std::string_view label) {
  const auto model = header.string("tokenizer.ggml.model");
  if (!model) fail("gguf", label, "there is no tokenizer in the file");
  if (*model != "llama" && *model != "gpt2")
    fail("gguf", label, "the tokenizer '" + *model + "' is not supported", "Supported are llama and gpt2");
  const bool pieces = *model == "llama";
  Vocabulary vocabulary;
  vocabulary.kind = pieces ? Vocabulary::Kind::kSentencePiece : Vocabulary::Kind::kByteLevelBpe;
  vocabulary.pre = header.string("tokenizer.ggml.pre").value_or("default");
  read_tokens(header, label, vocabulary);
  if (const auto* merges = header.strings("tokenizer.ggml.merges")) vocabulary.merges = *merges;
  const GgufPreTokenizer* pre = find_gguf_pre_tokenizer(vocabulary.pre);
  const bool usual_bos = pieces || (pre != nullptr && pre->adds_bos);
  vocabulary.add_bos = header.boolean("tokenizer.ggml.add_bos_token").value_or(usual_bos);
  vocabulary.add_eos = header.boolean("tokenizer.ggml.add_eos_token").value_or(false);
  vocabulary.add_space_prefix = header.boolean("tokenizer.ggml.add_space_prefix").value_or(pieces);
  vocabulary.bos = token_id(header, "bos_token_id");
  vocabulary.eos = token_id(header, "eos_token_id");
  vocabulary.unknown = token_id(header, "unknown_token_id");
  vocabulary.padding = token_id(header, "padding_token_id");
  check_token_ids(vocabulary, label);
  if (names_phi3(header.string("general.name").value_or(""))) strip_as_phi3(vocabulary);
  return vocabulary;
}

}  // namespace retort
