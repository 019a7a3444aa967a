#include <algorithm>

#include "core/arch/joined_family.h"

namespace retort {
namespace {

constexpr Role kAttentionParts[] = {Role::kQuery, Role::kKey, Role::kValue}, kFfnParts[] = {Role::kGate, Role::kUp};
constexpr Join kPhi3Joins[] = {{"model.layers.{}.self_attn.qkv_proj.weight", "blk.{}.attn_qkv.weight", kAttentionParts},
                               {"model.layers.{}.mlp.gate_up_proj.weight", "blk.{}.ffn_up.weight", kFfnParts}};

// What transformers' Phi3Config takes where a key is absent, and its older names of LongRoPE.
void restate_phi3(Json& config) {
  constexpr const char* kOriginal = "original_max_position_embeddings";
  constexpr double kNormEps = 1e-5;
  constexpr int64_t kOriginalContext = 4096;
  if (!config.contains("rms_norm_eps")) config["rms_norm_eps"] = kNormEps;
  if (!config.contains("sliding_window")) config["sliding_window"] = nullptr;
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (const auto rope = config.find(key); rope != config.end() && rope->is_object()) {
      if (!config.contains(kOriginal) && !rope->contains(kOriginal)) (*rope)[kOriginal] = kOriginalContext;
      for (const char* type : {"type", "rope_type"})
        if (const auto name = rope->find(type); name != rope->end() && (*name == "su" || *name == "yarn"))
          *name = "longrope";
    }
  for (const char* key : {"auto_map", "embd_pdrop", "resid_pdrop"}) config.erase(key);
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

Json restated_config(const Json& config, const JoinedFamily& family) {
  Json other = config;
  family.restate(other);
  other["model_type"] = family.read_as;
  other["architectures"] = Json::array({find_family(family.read_as)->architecture});
  return other;
}

std::optional<JoinedRows> joined_rows(const ModelConfig& config, const ExpectedTensor& tensor) {
  if (config.stored_as == nullptr || tensor.rule->part != Part::kWeight) return std::nullopt;
  for (const Join& join : config.stored_as->joins) {
    if (std::ranges::find(join.parts, tensor.rule->role) == join.parts.end()) continue;
    JoinedRows joined{.join = &join};
    for (const Role role : join.parts) {
      if (role == tensor.rule->role) joined.first = joined.rows;
      joined.rows += size_of(rule_of(config, role).rows, config);
    }
    return joined;
  }
  return std::nullopt;
}

}  // namespace retort
