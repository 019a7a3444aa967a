#include <algorithm>

#include "core/arch/joined_family.h"

namespace retort {
namespace {

constexpr const char* kOriginalContext = "original_max_position_embeddings";

constexpr Role kAttentionParts[] = {Role::kQuery, Role::kKey, Role::kValue}, kFfnParts[] = {Role::kGate, Role::kUp};
constexpr Join kPhi3Joins[] = {{"model.layers.{}.self_attn.qkv_proj.weight", "blk.{}.attn_qkv.weight", kAttentionParts},
                               {"model.layers.{}.mlp.gate_up_proj.weight", "blk.{}.ffn_up.weight", kFfnParts}};

void rename_longrope(Json& rope, const Json& original_context) {
  for (const char* key : {"type", "rope_type"})
    if (const auto type = rope.find(key); type != rope.end() && (*type == "su" || *type == "yarn")) *type = "longrope";
  const bool longrope = rope.value("rope_type", rope.value("type", Json())) == "longrope";
  if (longrope && !rope.contains(kOriginalContext)) rope[kOriginalContext] = original_context;
}

// What transformers' Phi3Config takes where a key is absent, and its older names of LongRoPE.
void restate_phi3(Json& config) {
  const Json absent{{"rms_norm_eps", 1e-5},
                    {"sliding_window", nullptr},
                    {"max_position_embeddings", 4096},
                    {"num_key_value_heads", config.value("num_attention_heads", Json(32))},
                    {"bos_token_id", 1},
                    {"eos_token_id", 32000}};
  for (const auto& [key, value] : absent.items())
    if (!config.contains(key)) config[key] = value;
  const Json original = config.value(kOriginalContext, Json(4096));
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (const auto rope = config.find(key); rope != config.end() && rope->is_object()) rename_longrope(*rope, original);
  for (const char* key : {"auto_map", "embd_pdrop", "resid_pdrop", "transformers_version"}) config.erase(key);
}

// Phi-3, 3.5 and 4 compute as Mistral does.
constexpr JoinedFamily kJoinedFamilies[] = {{.model_type = "phi3",
                                             .gguf_architecture = "phi3",
                                             .read_as = "mistral",
                                             .restate = restate_phi3,
                                             .joins = kPhi3Joins}};

const TensorRule& rule_of(const ModelConfig& config, Role role) {
  return *std::ranges::find_if(config.family->tensors,
                               [&](const TensorRule& rule) { return rule.role == role && rule.part == Part::kWeight; });
}

// The matrix that has the weight's rows; null: it is stored as itself.
const Join* join_of(const ModelConfig& config, const TensorRule& rule) {
  if (config.stored_as == nullptr || rule.part != Part::kWeight) return nullptr;
  for (const Join& join : config.stored_as->joins)
    if (std::ranges::find(join.parts, rule.role) != join.parts.end()) return &join;
  return nullptr;
}

}  // namespace

std::span<const JoinedFamily> joined_families() { return kJoinedFamilies; }

const JoinedFamily* find_joined_family(std::string_view model_type) {
  const auto* const found = std::ranges::find(kJoinedFamilies, model_type, &JoinedFamily::model_type);
  return found == std::end(kJoinedFamilies) ? nullptr : found;
}

const JoinedFamily* find_joined_family_by_gguf(std::string_view gguf_architecture) {
  const auto* const found = std::ranges::find(kJoinedFamilies, gguf_architecture, &JoinedFamily::gguf_architecture);
  return found == std::end(kJoinedFamilies) ? nullptr : found;
}

std::string_view stored_family(const ModelConfig& config) {
  return config.stored_as == nullptr ? config.family->model_type : config.stored_as->model_type;
}

Json restated_config(const Json& config, const JoinedFamily& family) {
  Json other = config;
  family.restate(other);
  other["model_type"] = family.read_as;
  other["architectures"] = Json::array({find_family(family.read_as)->architecture});
  return other;
}

StoredPlace stored_place(const ModelConfig& config, const ExpectedTensor& tensor) {
  const Join* join = join_of(config, *tensor.rule);
  if (join == nullptr) return {tensor.name, gguf_name(*tensor.rule, tensor.layer), false, 0, tensor.shape};
  StoredPlace stored{filled_name(join->hf_name, tensor.layer), filled_name(join->gguf_name, tensor.layer), true, 0,
                    tensor.shape};
  stored.shape.front() = 0;
  for (const Role role : join->parts) {
    if (role == tensor.rule->role) stored.first = stored.shape.front();
    stored.shape.front() += size_of(rule_of(config, role).rows, config);
  }
  return stored;
}

}  // namespace retort
