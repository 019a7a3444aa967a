// The one Torch decoder, driven by the family table: functions over weights, no module classes, so that the
// quantizer can run it layer by layer, the pruner can watch it and the trainer can differentiate it.
// Everything runs in the type and on the device of the weights. Torch itself runs single-threaded
// (model/shards.h); parallelism is over fixed shards, so that results do not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <functional>
#include <vector>

#include "core/arch/family.h"
#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

// The tensors of one layer, or of the top level, by role. Absent ones are undefined tensors.
class RoleTensors {
 public:
  at::Tensor& operator()(Role role, Part part = Part::kWeight) { return slots_[index(role, part)]; }
  const at::Tensor& operator()(Role role, Part part = Part::kWeight) const { return slots_[index(role, part)]; }

 private:
  static size_t index(Role role, Part part) { return static_cast<size_t>(role) * 2 + static_cast<size_t>(part); }
  std::array<at::Tensor, 28> slots_;
};

struct DecoderWeights {
  RoleTensors top;  // embedding, final norm, head (the embedding itself when tied)
  std::vector<RoleTensors> layers;
};

struct Placement {  // where and as what weights are loaded
  at::ScalarType type = at::kFloat;
  at::Device device = at::kCPU;
};

// With `threads`, tensors are loaded side by side.
RoleTensors load_layer(const ModelSource& source, int64_t layer, const Placement& placement = {},
                       ThreadPool* threads = nullptr);
RoleTensors load_top(const ModelSource& source, const Placement& placement = {});
DecoderWeights load_weights(const ModelSource& source, const Placement& placement = {});

// Keys and values of the tokens seen so far, one entry per layer: [batch, kv_heads, tokens, head_dim].
struct DecoderCache {
  std::vector<at::Tensor> keys, values;
  int64_t tokens = 0;
};

// Called with the input of each group of matrices of the layer: [batch, tokens, features].
using Capture = std::function<void(Input, const at::Tensor&)>;

// ids [batch, tokens] int64 -> hidden [batch, tokens, hidden].
at::Tensor embed(const RoleTensors& top, const at::Tensor& ids);
// One decoder layer in steps, for callers that change weights on the way: each step applies the matrices that `input`
// feeds and computes what the next group of matrices is fed with.
struct LayerState {
  at::Tensor hidden;             // the residual stream [batch, tokens, hidden]
  at::Tensor input;              // of the matrices of `reached` [batch, tokens, features]; undefined at kNone
  Input reached = Input::kNone;  // kNone -> kAttentionNorm -> kAttention -> kFfnNorm -> kFfn -> kNone: done
};
void layer_step(const ModelConfig& config, int64_t layer, const RoleTensors& weights, LayerState& state,
                DecoderCache* cache = nullptr);
// One decoder layer. With `cache`, the tokens follow cache->tokens earlier ones and are appended to it (the
// caller advances cache->tokens after the last layer).
at::Tensor layer_forward(const ModelConfig& config, int64_t layer, const RoleTensors& weights, const at::Tensor& hidden,
                         DecoderCache* cache = nullptr, const Capture& capture = {});
// The embedding and all layers: ids [batch, tokens] -> hidden [batch, tokens, hidden], before the final norm.
at::Tensor forward_hidden(const ModelConfig& config, const DecoderWeights& weights, const at::Tensor& ids,
                          DecoderCache* cache = nullptr);
// Final norm: hidden -> hidden; then the head: [.., hidden] -> [.., vocabulary].
at::Tensor final_norm(const ModelConfig& config, const RoleTensors& top, const at::Tensor& hidden);
at::Tensor head_logits(const RoleTensors& top, const at::Tensor& normed);
// All of it: ids [batch, tokens] -> logits [batch, tokens, vocabulary].
at::Tensor forward_logits(const ModelConfig& config, const DecoderWeights& weights, const at::Tensor& ids,
                          DecoderCache* cache = nullptr);

}  // namespace retort
