#include "quantize/gptq/factor.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/shards.h"
#include "quantize/gptq/cholesky.h"

namespace retort {
namespace {

constexpr double kLargestDamp = 2.0;

std::vector<int64_t> solve_order(const std::vector<float>& diagonal, bool by_activation,
                                 std::span<const int32_t> last) {
  std::vector<int64_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int64_t column) { return diagonal[static_cast<size_t>(column)]; };
  if (by_activation) std::ranges::stable_sort(order, [&](int64_t a, int64_t b) { return at(a) > at(b); });
  std::ranges::stable_partition(order, [&](int64_t column) { return !std::ranges::binary_search(last, column); });
  return order;
}

at::Tensor permuted(const at::Tensor& matrix, const std::vector<int64_t>& order) {
  if (std::ranges::is_sorted(order)) return matrix.clone();
  const at::Tensor index = at::tensor(order);
  return matrix.index_select(0, index).index_select(1, index);
}

// A dead column has nothing to say about its weights: its entry becomes 1 and the solver sets the weights to 0.
std::vector<uint8_t> revive_dead(std::vector<float>& diagonal) {
  std::vector<uint8_t> dead(diagonal.size());
  for (size_t i = 0; i < diagonal.size(); ++i)
    if (diagonal[i] == 0) dead[i] = 1, diagonal[i] = 1;
  return dead;
}

at::Tensor damped(const at::Tensor& hessian, const std::vector<float>& diagonal, const std::vector<int64_t>& order,
                  double added) {
  const at::Tensor matrix = permuted(hessian, order);
  float* entries = matrix.mutable_data_ptr<float>();
  for (size_t place = 0; place < order.size(); ++place)
    entries[place * (order.size() + 1)] = diagonal[static_cast<size_t>(order[place])] + static_cast<float>(added);
  return matrix;
}

// Splits R = F diag(sqrt(pivots)) in place.
std::vector<float> take_pivots(at::Tensor& factor) {
  const at::Tensor root = factor.diagonal().clone();
  factor.div_(root).triu_();
  const at::Tensor pivots = root.square();
  const float* values = pivots.const_data_ptr<float>();
  return {values, values + pivots.numel()};
}

}  // namespace

HessianFactor factor_hessian(const InputStatistics& statistics, const SolverOptions& options, const Context& context,
                             std::span<const int32_t> last) {
  prepare_torch();
  const at::NoGradGuard no_grad;
  HessianFactor result;
  const int64_t n = statistics.features;
  if (!all_finite(statistics.second_moment)) {
    result.failure = "the activations hold NaN or infinity";
    return result;
  }
  const at::Tensor hessian = at::from_blob(const_cast<float*>(statistics.second_moment.data()), {n, n}, at::kFloat);
  std::vector<float> diagonal = statistics.diagonal();
  result.dead = revive_dead(diagonal);
  result.order = solve_order(diagonal, options.activation_order, last);
  const double mean = std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(n);
  for (double damp = options.damp; damp <= kLargestDamp; damp = std::max(2 * damp, 1e-3)) {
    at::Tensor factor = damped(hessian, diagonal, result.order, damp * mean);
    if (!factor_upper(factor, context)) continue;
    result.pivots = take_pivots(factor);
    result.feedback = factor;
    result.damp = damp;
    for (const float entry : diagonal) result.diagonal.push_back(entry + static_cast<float>(damp * mean));
    if (options.second_pass) result.second_moment = statistics.second_moment;
    return result;
  }
  result.failure = "the second moment of the inputs has no Cholesky factor at any damping";
  return result;
}

}  // namespace retort
