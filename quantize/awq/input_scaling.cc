#include "quantize/awq/input_scaling.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "model/shards.h"
#include "quantize/importance.h"

namespace retort {
namespace {

constexpr int kRatios = 20;
constexpr float kSmallest = 1e-4f;
constexpr int64_t kRows = 256;  // of a shard

// Means over each channel, for each of its columns.
std::vector<float> channel_means(std::span<const float> values, const ColumnChannels& channels) {
  if (channels.empty()) return {values.begin(), values.end()};
  const auto count = static_cast<size_t>(*std::ranges::max_element(channels) + 1);
  std::vector<double> sums(count), sizes(count);
  for (size_t c = 0; c < values.size(); ++c) {
    sums[static_cast<size_t>(channels[c])] += values[c];
    sizes[static_cast<size_t>(channels[c])] += 1;
  }
  std::vector<float> means;
  for (const int64_t channel : channels)
    means.push_back(static_cast<float>(sums[static_cast<size_t>(channel)] / sizes[static_cast<size_t>(channel)]));
  return means;
}

std::vector<float> factors_of(std::span<const float> activity, double ratio) {
  std::vector<float> factors;
  for (const float a : activity) factors.push_back(std::max(static_cast<float>(std::pow(a, ratio)), kSmallest));
  const auto [least, most] = std::ranges::minmax_element(factors);
  const float middle = std::sqrt(*least * *most);
  for (float& factor : factors) factor /= middle;
  return factors;
}

// tr(E H E^T) over rows [first, first + count).
double output_error(const MatrixTask& task, const QuantizedMatrix& rounded, std::span<const float> factors,
                    const at::Tensor& moment, int64_t first, int64_t count) {
  const at::Tensor weights = at::empty({count, task.cols}, at::kFloat), values = at::empty_like(weights);
  const auto size = static_cast<size_t>(weights.numel());
  task.read(first, count, {weights.mutable_data_ptr<float>(), size});
  dequantize_rows(rounded, first, count, {values.mutable_data_ptr<float>(), size});
  const at::Tensor scale = at::from_blob(const_cast<float*>(factors.data()), {task.cols}, at::kFloat);
  const at::Tensor error = values.div_(scale).sub_(weights);
  return at::mm(error, moment).mul_(error).sum(at::kDouble).item<double>();
}

// Infinite where the matrix cannot be rounded.
double rounding_error(const MatrixTask& task, std::span<const float> importance, std::span<const float> factors,
                      const at::Tensor& moment, const SolverOptions& options, Context& context) {
  const SolvedMatrix solved = round_to_nearest(scaled(task, factors), importance, options.grid, context);
  if (!solved.matrix) return std::numeric_limits<double>::infinity();
  const int64_t shards = (task.rows + kRows - 1) / kRows;
  std::vector<double> errors(static_cast<size_t>(shards));
  run_shards(context, shards, [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const int64_t first = i * kRows;
    errors[static_cast<size_t>(i)] =
        output_error(task, *solved.matrix, factors, moment, first, std::min(kRows, task.rows - first));
  });
  return std::accumulate(errors.begin(), errors.end(), 0.0);
}

}  // namespace

InputScaling find_input_scaling(std::span<const MatrixTask> group, const InputStatistics& statistics,
                                const ColumnChannels& channels, const SolverOptions& options, Context& context) {
  prepare_torch();
  const int64_t n = statistics.features;
  const at::Tensor moment = at::from_blob(const_cast<float*>(statistics.second_moment.data()), {n, n}, at::kFloat);
  const std::vector<float> activity = channel_means(statistics.mean_absolute, channels);
  InputScaling best;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRatios; ++i) {
    const double ratio = static_cast<double>(i) / kRatios;
    const std::vector<float> factors = factors_of(activity, ratio);
    const std::vector<float> importance = column_importance(statistics, factors);
    double error = 0;
    for (const MatrixTask& task : group) error += rounding_error(task, importance, factors, moment, options, context);
    if (!std::isfinite(error)) return {};
    if (error >= least) continue;
    least = error;
    best = {i > 0 ? factors : std::vector<float>{}, ratio};
  }
  return best;
}

InputStatistics divided_inputs(InputStatistics statistics, std::span<const float> factors) {
  const size_t n = factors.size();
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) statistics.second_moment[i * n + j] /= factors[i] * factors[j];
  return statistics;
}

std::vector<float> column_importance(const InputStatistics& statistics, std::span<const float> factors) {
  const size_t n = static_cast<size_t>(statistics.features);
  std::vector<float> importance(n);
  for (size_t i = 0; i < n; ++i) {
    const float factor = factors.empty() ? 1.0f : factors[i];
    importance[i] = statistics.second_moment[i * (n + 1)] / (factor * factor);
  }
  return floored_importance(std::move(importance));
}

}  // namespace retort
