// AdamW (Loshchilov, Hutter, arXiv:1711.05101, algorithm 2) over one flat vector of parameters, so that its state
// is two vectors that a checkpoint stores as they are.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "core/base/context.h"

namespace retort {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0;
  int64_t decayed = 0;  // elements [0, decayed) decay: matrices, not norms and biases
};

// Flat float32 vectors of the length of the parameters, zero at the start.
struct AdamWState {
  at::Tensor mean, square;
  int64_t steps = 0;
};

// One step, in place. Elementwise in fixed pieces: the same bytes with any number of threads.
void adamw_step(const Context& context, const AdamWOptions& options, double learning_rate, const at::Tensor& gradient,
                AdamWState& state, at::Tensor& parameters);

// The Euclidean norm of a flat vector, summed in float64 in fixed pieces.
double global_norm(const Context& context, const at::Tensor& vector);
// Scales `gradient` down to `limit` where its norm is larger (0: never). Returns the norm before.
double clip_gradient(const Context& context, double limit, at::Tensor& gradient);

}  // namespace retort
