// A decoder's configuration, read from config.json as transformers 4 and 5 write it.
// Goals: every number the other folders need, checked once. Non-goal: guessing. What is not known is refused by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/arch/rope.h"
#include "core/base/dtype.h"
#include "core/base/json.h"

namespace retort {

struct Family;
struct JoinedFamily;

struct ModelConfig {
  const Family* family = nullptr;           // never null after parse_config
  const JoinedFamily* stored_as = nullptr;  // joined_family.h: what the checkpoint is, where it is read as `family`
  int64_t vocab_size = 0, hidden_size = 0, ffn_size = 0, layers = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0, context_length = 0;
  double norm_eps = 1e-6;
  bool tied_embeddings = false;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;  // which projections carry a bias
  RopeConfig rope;
  std::vector<int64_t> windows;  // per layer: attention reaches this many tokens back (itself included); 0: all
  std::optional<int64_t> bos_id;
  std::vector<int64_t> eos_ids;
  DType dtype = DType::kBF16;  // the type the checkpoint says its weights have
  Json json;                   // config.json as read, in the keys of `family`: what a rewritten checkpoint starts from

  int64_t query_size() const { return heads * head_dim; }
  int64_t kv_size() const { return kv_heads * head_dim; }
  int64_t parameters() const;  // tied embeddings counted once
};

// `label` names the file in errors. Unknown model_type, hidden_act, rope type, a bias or a window the family
// does not know, and numbers out of range are Errors.
ModelConfig parse_config(const Json& json, std::string_view label);

// Copies of `json` for a model whose shape changed; per-layer lists (layer_types) follow.
// `kept` holds the indices of the layers that stay, ascending.
Json config_with_layers(const ModelConfig& config, const std::vector<int64_t>& kept);

// The angle of a position is position * rope_frequencies(config, tokens)[i], i < head_dim / 2; its cosine and sine are
// multiplied by rope.attention_factor. `tokens` is the length of the sequence with what one pass adds to it: longrope
// has other frequencies for long sequences, and what an earlier pass left in the cache stays as it is, as in
// transformers.
std::vector<float> rope_frequencies(const ModelConfig& config, int64_t tokens = 0);

}  // namespace retort
