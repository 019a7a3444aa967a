// Attention without gradients on a CPU that multiplies pairs of bfloat16 values.
#pragma once

#include <ATen/core/Tensor.h>

namespace retort {

// True for bfloat16 queries that attend to keys of the same tokens, on such a processor and outside gradient mode.
bool attends_in_pairs(const at::Tensor& queries, const at::Tensor& keys);
// As attend() (attention.h), where the above holds: scores, their exponentials and sums in float32, weights rounded to
// bfloat16 before they meet the values and divided by their sum after it (arXiv:2205.14135, section 3.1).
at::Tensor attend_in_pairs(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values, int64_t window);

}  // namespace retort
