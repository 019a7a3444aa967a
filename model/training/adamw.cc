#include "model/training/adamw.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "model/shards.h"

namespace retort {
namespace {

constexpr int64_t kPiece = 1 << 16;  // elements: the five vectors of a piece stay in a core's cache

// body(piece, first, count) over `vector`; a GPU takes it in one piece.
int64_t for_each_piece(const Context& context, const at::Tensor& vector,
                       const std::function<void(int64_t, int64_t, int64_t)>& body) {
  const int64_t elements = vector.numel();
  const int64_t size = vector.is_cpu() ? kPiece : std::max<int64_t>(1, elements);
  const int64_t pieces = (elements + size - 1) / size;
  run_shards(context, pieces, [&](int64_t i) {
    const at::NoGradGuard no_grad;
    body(i, i * size, std::min(size, elements - i * size));
  });
  return pieces;
}

}  // namespace

void adamw_step(const Context& context, const AdamWOptions& options, double learning_rate, const at::Tensor& gradient,
                AdamWState& state, at::Tensor& parameters) {
  ++state.steps;
  const auto steps = static_cast<double>(state.steps);
  const double correction1 = 1 - std::pow(options.beta1, steps), correction2 = 1 - std::pow(options.beta2, steps);
  for_each_piece(context, parameters, [&](int64_t, int64_t first, int64_t count) {
    const at::Tensor g = gradient.narrow(0, first, count);
    at::Tensor p = parameters.narrow(0, first, count);
    at::Tensor mean = state.mean.narrow(0, first, count), square = state.square.narrow(0, first, count);
    mean.mul_(options.beta1).add_(g, 1 - options.beta1);
    square.mul_(options.beta2).addcmul_(g, g, 1 - options.beta2);
    const int64_t decayed = std::clamp<int64_t>(options.decayed - first, 0, count);
    p.narrow(0, 0, decayed).mul_(1 - learning_rate * options.weight_decay);
    p.addcdiv_(mean, square.sqrt().div_(std::sqrt(correction2)).add_(options.epsilon), -learning_rate / correction1);
  });
}

double global_norm(const Context& context, const at::Tensor& vector) {
  std::vector<double> squares(static_cast<size_t>(vector.numel() / kPiece + 1));
  const int64_t pieces = for_each_piece(context, vector, [&](int64_t i, int64_t first, int64_t count) {
    const double norm =
        at::linalg_vector_norm(vector.narrow(0, first, count), 2, {}, false, at::kDouble).item<double>();
    squares[static_cast<size_t>(i)] = norm * norm;
  });
  return std::sqrt(std::accumulate(squares.begin(), squares.begin() + pieces, 0.0));
}

double clip_gradient(const Context& context, double limit, at::Tensor& gradient) {
  const double norm = global_norm(context, gradient);
  if (limit > 0 && norm > limit)
    for_each_piece(context, gradient,
                   [&](int64_t, int64_t first, int64_t count) { gradient.narrow(0, first, count).mul_(limit / norm); });
  return norm;
}

}  // namespace retort
