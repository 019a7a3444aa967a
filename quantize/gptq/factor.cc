#include "quantize/gptq/factor.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/pair_products.h"
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

// A dead column has nothing to say about its weights: its entry becomes 1 and the solver sets the weights to 0.
std::vector<uint8_t> revive_dead(std::vector<float>& diagonal) {
  std::vector<uint8_t> dead(diagonal.size());
  for (size_t i = 0; i < diagonal.size(); ++i)
    if (diagonal[i] == 0) dead[i] = 1, diagonal[i] = 1;
  return dead;
}

constexpr int64_t kRows = 64;  // of a matrix, for one thread

// The upper half, in the order of the solve; the lower one is never read.
at::Tensor damped(const InputStatistics& statistics, const std::vector<float>& diagonal,
                  const std::vector<int64_t>& order, double added, const Context& context) {
  const auto n = static_cast<int64_t>(order.size());
  const at::Tensor matrix = at::empty({n, n}, at::kFloat);
  float* entries = matrix.mutable_data_ptr<float>();
  context.threads.run_ranges(n, kRows, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t column = order[static_cast<size_t>(row)];
      const float* moments = statistics.second_moment.data() + column * n;
      float* out = entries + row * n;
      for (int64_t i = row; i < n; ++i) out[i] = moments[order[static_cast<size_t>(i)]];
      out[row] = diagonal[static_cast<size_t>(column)] + static_cast<float>(added);
    }
  });
  return matrix;
}

// Splits R = F diag(sqrt(pivots)) in place, and clears the lower half.
std::vector<float> take_pivots(at::Tensor& factor, const Context& context) {
  const int64_t n = factor.size(0);
  float* entries = factor.mutable_data_ptr<float>();
  std::vector<float> roots, pivots;
  for (int64_t i = 0; i < n; ++i) roots.push_back(entries[i * (n + 1)]);
  for (const float root : roots) pivots.push_back(root * root);
  context.threads.run_ranges(n, kRows, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      std::fill_n(entries + row * n, row, 0.0f);
      for (int64_t i = row; i < n; ++i) entries[row * n + i] /= roots[static_cast<size_t>(i)];
    }
  });
  return pivots;
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
  std::vector<float> diagonal = statistics.diagonal();
  result.dead = revive_dead(diagonal);
  result.order = solve_order(diagonal, options.activation_order, last);
  const double mean = std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(n);
  for (double damp = options.damp; damp <= kLargestDamp; damp = std::max(2 * damp, 1e-3)) {
    at::Tensor factor = damped(statistics, diagonal, result.order, damp * mean, context);
    if (!factor_upper(factor, context)) continue;
    result.pivots = take_pivots(factor, context);
    result.feedback = factor;
    if (options.in_pairs && n % kPairPanel == 0 && has_pair_products()) result.paired = make_paired(factor, context);
    result.damp = damp;
    for (const float entry : diagonal) result.diagonal.push_back(entry + static_cast<float>(damp * mean));
    if (options.second_pass) result.second_moment = statistics.second_moment;
    return result;
  }
  result.failure = "the second moment of the inputs has no Cholesky factor at any damping";
  return result;
}

}  // namespace retort
