#include "model/decoder.h"

#include <ATen/ATen.h>

#include "model/attention.h"
#include "model/single_pass.h"

namespace retort {
namespace {

// RMSNorm (arXiv:1910.07467) in at least float32 whatever the type of the weights, rounded before the gain is
// applied: the order of operations of transformers. A residual stream may be wider than the weights.
at::Tensor rms_norm(const ModelConfig& config, const at::Tensor& input, const at::Tensor& gain) {
  if (in_single_pass(input) && in_single_pass(gain)) return norm_in_single_pass(input, gain, config.norm_eps);
  const at::Tensor wide = input.to(at::promote_types(input.scalar_type(), at::kFloat));
  const at::Tensor scale = (wide.square().mean(-1, /*keepdim=*/true) + config.norm_eps).rsqrt();
  return gain * (wide * scale).to(gain.scalar_type());
}

// SwiGLU (arXiv:2002.05202)
at::Tensor gated(const at::Tensor& gate, const at::Tensor& up) {
  return in_single_pass(gate) ? gate_in_single_pass(gate, up) : at::silu(gate) * up;
}

at::Tensor project(const RoleTensors& weights, Role role, const at::Tensor& input) {
  const at::Tensor& bias = weights(role, Part::kBias);
  return at::linear(input, weights(role), bias.defined() ? std::optional(bias) : std::nullopt);
}

// [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
at::Tensor split_heads(const ModelConfig& config, const at::Tensor& states) {
  return states.unflatten(-1, {-1, config.head_dim}).transpose(1, 2);
}

// Appends `states` to what the cache holds of this layer.
at::Tensor extend(std::vector<at::Tensor>& cached, int64_t layer, int64_t layers, const at::Tensor& states) {
  cached.resize(static_cast<size_t>(layers));
  at::Tensor& past = cached[static_cast<size_t>(layer)];
  past = past.defined() ? at::cat({past, states}, 2) : states;
  return past;
}

at::Tensor attention(const ModelConfig& config, int64_t layer, const RoleTensors& weights, const at::Tensor& normed,
                     DecoderCache* cache) {
  const int64_t position = cache ? cache->tokens : 0;
  at::Tensor queries = split_heads(config, project(weights, Role::kQuery, normed));
  at::Tensor keys = split_heads(config, project(weights, Role::kKey, normed));
  at::Tensor values = split_heads(config, project(weights, Role::kValue, normed));
  if (config.family->qk_norm) {
    queries = rms_norm(config, queries, weights(Role::kQueryNorm));
    keys = rms_norm(config, keys, weights(Role::kKeyNorm));
  }
  queries = rotate(config, queries, position);
  keys = rotate(config, keys, position);
  if (cache) {
    keys = extend(cache->keys, layer, config.layers, keys);
    values = extend(cache->values, layer, config.layers, values);
  }
  return attend(queries, keys, values, config.windows[static_cast<size_t>(layer)]).transpose(1, 2).flatten(2);
}

}  // namespace

at::Tensor embed(const RoleTensors& top, const at::Tensor& ids) { return at::embedding(top(Role::kEmbedding), ids); }

void layer_step(const ModelConfig& config, int64_t layer, const RoleTensors& weights, LayerState& state,
                DecoderCache* cache) {
  switch (state.reached) {
    case Input::kNone:
      state = {state.hidden, rms_norm(config, state.hidden, weights(Role::kAttentionNorm)), Input::kAttentionNorm};
      return;
    case Input::kAttentionNorm:
      state = {state.hidden, attention(config, layer, weights, state.input, cache), Input::kAttention};
      return;
    case Input::kAttention:
      state.hidden = state.hidden + project(weights, Role::kAttentionOutput, state.input);
      state = {state.hidden, rms_norm(config, state.hidden, weights(Role::kFfnNorm)), Input::kFfnNorm};
      return;
    case Input::kFfnNorm: {
      const at::Tensor gate = project(weights, Role::kGate, state.input);
      state = {state.hidden, gated(gate, project(weights, Role::kUp, state.input)), Input::kFfn};
      return;
    }
    case Input::kFfn: state = {state.hidden + project(weights, Role::kDown, state.input), {}, Input::kNone};
  }
}

at::Tensor layer_forward(const ModelConfig& config, int64_t layer, const RoleTensors& weights, const at::Tensor& hidden,
                         DecoderCache* cache, const Capture& capture) {
  LayerState state{hidden, {}, Input::kNone};
  do {
    layer_step(config, layer, weights, state, cache);
    if (capture && state.reached != Input::kNone) capture(state.reached, state.input);
  } while (state.reached != Input::kNone);
  return state.hidden;
}

at::Tensor final_norm(const ModelConfig& config, const RoleTensors& top, const at::Tensor& hidden) {
  return rms_norm(config, hidden, top(Role::kFinalNorm));
}

at::Tensor head_logits(const RoleTensors& top, const at::Tensor& normed) { return project(top, Role::kHead, normed); }

at::Tensor forward_hidden(const ModelConfig& config, const DecoderWeights& weights, const at::Tensor& ids,
                          DecoderCache* cache) {
  at::Tensor hidden = embed(weights.top, ids);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    hidden = layer_forward(config, layer, weights.layers[static_cast<size_t>(layer)], hidden, cache);
  if (cache) cache->tokens += ids.size(1);
  return hidden;
}

at::Tensor forward_logits(const ModelConfig& config, const DecoderWeights& weights, const at::Tensor& ids,
                          DecoderCache* cache) {
  return head_logits(weights.top, final_norm(config, weights.top, forward_hidden(config, weights, ids, cache)));
}

}  // namespace retort
