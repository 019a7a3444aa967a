// The distillation loss over the two heads, without ever holding the logits of more than a chunk of tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace retort {

// Per token, over the first `vocabulary` ids, with logits t of the teacher and s of the student and label y:
//   weight * T^2 * KL(softmax(t / T) || softmax(s / T)) + (1 - weight) * -log softmax(s)[y]
// (Hinton, Vinyals, Dean, arXiv:1503.02531, section 2: T^2 keeps the two gradients in proportion).
struct LossOptions {
  double temperature = 1;
  double kl_weight = 1;
  int64_t vocabulary = 0;
  int64_t chunk = 256;  // tokens whose logits exist at a time
};

// Sums over tokens, in nats; kl is at the temperature and without T^2.
struct LossSums {
  double kl = 0, cross_entropy = 0;
  int64_t tokens = 0;

  LossSums& operator+=(const LossSums& other);
  double mean(const LossOptions& options) const;  // of the mixed loss, per token
};

// What a model brings to its head: normed hidden states [tokens, hidden] and the head [vocabulary or more, hidden].
struct HeadInput {
  at::Tensor hidden, head;
};

// Gradients of scale * (the sum of the mixed loss): of the student's hidden states in their type, [tokens, hidden];
// of its head in float32, of the head's shape.
struct HeadGradients {
  at::Tensor hidden, head;
};

// labels [tokens] int64. `gradients` may be null. No autograd: the gradient is that of the formula above.
LossSums head_loss(const HeadInput& teacher, const HeadInput& student, const at::Tensor& labels,
                   const LossOptions& options, double scale, HeadGradients* gradients);

}  // namespace retort
