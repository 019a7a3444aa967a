#include "model/training/loss.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace retort {
namespace {

struct ChunkLoss {
  LossSums sums;
  at::Tensor gradient;  // of the sum, by the student's logits; float32
};

double total(const at::Tensor& values) { return values.sum(at::kDouble).item<double>(); }

// Logits [tokens, vocabulary] float32. d/ds of T^2 KL is T (softmax(s / T) - softmax(t / T)), of the cross-entropy
// softmax(s) - onehot(y).
ChunkLoss chunk_loss(const at::Tensor& teacher, const at::Tensor& student, const at::Tensor& labels,
                     const LossOptions& options, bool with_gradient) {
  const double t = options.temperature, weight = options.kl_weight;
  const at::Tensor log_p = at::log_softmax(t == 1 ? teacher : teacher / t, -1);
  const at::Tensor log_q = at::log_softmax(t == 1 ? student : student / t, -1);
  const at::Tensor log_q1 = t == 1 ? log_q : at::log_softmax(student, -1);
  const at::Tensor index = labels.unsqueeze(-1);
  const at::Tensor p = log_p.exp();
  ChunkLoss result;
  result.sums.tokens = labels.size(0);
  result.sums.cross_entropy = -total(log_q1.gather(-1, index));
  result.sums.kl = total(log_p.sub_(log_q).mul_(p).sum(-1));
  if (!with_gradient) return result;
  result.gradient = at::exp(log_q).sub_(p);
  if (weight * t != 1) result.gradient.mul_(weight * t);
  if (weight < 1) {
    result.gradient.add_(log_q1.exp(), 1 - weight);
    result.gradient.scatter_add_(-1, index, at::full_like(index, weight - 1, result.gradient.options()));
  }
  return result;
}

// into += a^T b
void add_product(at::Tensor into, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == into.scalar_type())
    into.addmm_(a.t(), b);
  else
    into.add_(at::mm(a.t(), b));
}

}  // namespace

LossSums& LossSums::operator+=(const LossSums& other) {
  kl += other.kl;
  cross_entropy += other.cross_entropy;
  tokens += other.tokens;
  return *this;
}

double LossSums::mean(const LossOptions& options) const {
  const double t2 = options.temperature * options.temperature;
  return (options.kl_weight * t2 * kl + (1 - options.kl_weight) * cross_entropy) / static_cast<double>(tokens);
}

LossSums head_loss(const HeadInput& teacher, const HeadInput& student, const at::Tensor& labels,
                   const LossOptions& options, double scale, HeadGradients* gradients) {
  const at::NoGradGuard no_grad;
  const at::Tensor teacher_head = teacher.head.narrow(0, 0, options.vocabulary);
  const at::Tensor student_head = student.head.narrow(0, 0, options.vocabulary);
  if (gradients) {
    gradients->hidden = at::empty_like(student.hidden);
    gradients->head = at::zeros(student.head.sizes(), student.head.options().dtype(at::kFloat));
  }
  LossSums sums;
  const int64_t tokens = labels.size(0);
  for (int64_t first = 0; first < tokens; first += options.chunk) {
    const int64_t count = std::min(options.chunk, tokens - first);
    const at::Tensor hidden = student.hidden.narrow(0, first, count);
    const at::Tensor teacher_logits = at::linear(teacher.hidden.narrow(0, first, count), teacher_head).to(at::kFloat);
    const at::Tensor student_logits = at::linear(hidden, student_head).to(at::kFloat);
    ChunkLoss chunk =
        chunk_loss(teacher_logits, student_logits, labels.narrow(0, first, count), options, gradients != nullptr);
    sums += chunk.sums;
    if (!gradients) continue;
    const at::Tensor by_logits = chunk.gradient.mul_(scale).to(hidden.scalar_type());
    gradients->hidden.narrow(0, first, count).copy_(at::mm(by_logits, student_head));
    add_product(gradients->head.narrow(0, 0, options.vocabulary), by_logits, hidden);
  }
  return sums;
}

}  // namespace retort
