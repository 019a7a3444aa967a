// The attention of the decoder, apart from its projections.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/arch/model_config.h"

namespace retort {

// Rotary embedding (arXiv:2104.09864) in the half-split order of Hugging Face checkpoints: element i of a head is
// turned with element i + head_dim / 2. states [batch, heads, tokens, head_dim]; token t has position
// `position` + t. Angles are computed in float32.
at::Tensor rotate(const ModelConfig& config, const at::Tensor& states, int64_t position);

// Causal attention of queries [batch, heads, tokens, head_dim], the last `tokens` of the positions that keys and
// values [batch, kv_heads, positions, head_dim] have. Each reaches `window` positions back, itself included
// (0: all). Result: [batch, heads, tokens, head_dim].
at::Tensor attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values, int64_t window);

}  // namespace retort
