// What lies between the products of a layer, each in one pass over memory, where Torch takes one for each operation: on
// a CPU, outside gradient mode, for float32 and bfloat16. Sums and functions are in float32, rounded where the order of
// operations of transformers rounds tensors that are stored; rotary embeddings are rounded once, at their end.
#pragma once

#include <ATen/core/Tensor.h>

namespace retort {

// Whether the functions below take such tensors.
bool in_single_pass(const at::Tensor& states);

// RMSNorm of rows of float32 or of the type of `gain` [features], which the result has.
at::Tensor norm_in_single_pass(const at::Tensor& input, const at::Tensor& gain, double eps);
// silu(gate) * up
at::Tensor gate_in_single_pass(const at::Tensor& gate, const at::Tensor& up);
// Rotary embedding of states [batch, heads, tokens, head_dim] by cosine and sine [tokens, head_dim / 2], both in the
// type of the states.
at::Tensor rotate_in_single_pass(const at::Tensor& states, const at::Tensor& cosine, const at::Tensor& sine);

}  // namespace retort
