// H of a set of inputs.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "core/base/context.h"
#include "quantize/quantizer.h"

namespace retort {

// 2 / sequences * sum of x x^T over the rows x of all `inputs` [.., features], float32. Tiles of the result are
// computed side by side, each over the inputs in their order: the same for any number of threads.
InputStatistics second_moment(std::span<const at::Tensor> inputs, int64_t sequences, const Context& context);

// Mean of |x| by feature over the rows of all `inputs`.
std::vector<float> mean_absolute(std::span<const at::Tensor> inputs, const Context& context);

// 2 / sequences * sum of y x^T over the rows y of `left` and x of `right`, [features of left, features of right],
// float32 on the CPU; the same for any number of threads. Both hold the same number of rows.
at::Tensor cross_moment(std::span<const at::Tensor> left, std::span<const at::Tensor> right, int64_t sequences,
                        const Context& context);

}  // namespace retort
