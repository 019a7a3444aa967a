#include "quantize/awq/input_scaling.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <utility>

#include "model/shards.h"
#include "quantize/importance.h"
#include "quantize/rounding.h"

namespace retort {
namespace {

constexpr float kSmallest = 1e-4f;
constexpr int64_t kRows = 128;  // of a matrix that the search looks at
constexpr double kSteps[] = {0.2, 0.1, 0.05};

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

std::vector<float> raised(std::span<const float> activity, std::span<const float> sizes, ScalingExponents exponents) {
  std::vector<float> factors;
  for (size_t c = 0; c < activity.size(); ++c)
    factors.push_back(std::max(static_cast<float>(std::pow(activity[c], exponents.activity) /
                                                  std::pow(std::max(sizes[c], kSmallest), exponents.size)),
                               kSmallest));
  const auto [least, most] = std::ranges::minmax_element(factors);
  const float middle = std::sqrt(*least * *most);
  for (float& factor : factors) factor /= middle;
  return factors;
}

// At most kRows rows, spread evenly over the matrix.
MatrixTask sample(const MatrixTask& task) {
  const int64_t rows = std::min(task.rows, kRows), cols = task.cols;
  const auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * cols));
  for (int64_t row = 0; row < rows; ++row)
    task.read(row * task.rows / rows, 1, std::span(*values).subspan(static_cast<size_t>(row * cols), cols));
  MatrixTask result = task;
  result.rows = rows;
  result.read = [values, cols](int64_t first, int64_t count, std::span<float> out) {
    std::copy_n(values->begin() + first * cols, count * cols, out.begin());
  };
  return result;
}

at::Tensor values_of(const MatrixTask& task) {
  const at::Tensor values = at::empty({task.rows, task.cols}, at::kFloat);
  task.read(0, task.rows, {values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())});
  return values;
}

// How large the weights of each column are beside the largest of their groups, on average.
std::vector<float> column_sizes(std::span<const MatrixTask> group) {
  at::Tensor sums = at::zeros({group.front().cols}, at::kFloat);
  for (const MatrixTask& task : group) {
    const int64_t size = task.scheme.group_size(task.cols);
    const at::Tensor sizes = values_of(task).abs().view({task.rows, -1, size});
    sums += (sizes / sizes.amax(2, /*keepdim=*/true).clamp_min(1e-30)).view({task.rows, task.cols}).sum(0);
  }
  const float* values = sums.const_data_ptr<float>();
  return {values, values + sums.numel()};
}

class Search {
 public:
  Search(std::span<const MatrixTask> group, const InputStatistics& statistics, const ColumnChannels& channels,
         const SolverOptions& options, Context& context)
      : statistics_(statistics), options_(options), context_(context) {
    const int64_t n = statistics.features;
    moment_ = at::from_blob(const_cast<float*>(statistics.second_moment.data()), {n, n}, at::kFloat);
    for (const MatrixTask& task : group) tasks_.push_back(sample(task));
    activity_ = channel_means(statistics.mean_absolute, channels);
    sizes_ = channel_means(column_sizes(tasks_), channels);
  }

  InputScaling run() {
    if (!consider({})) return {};
    for (const double step : kSteps)
      for (bool better = true; better;) {
        better = false;
        const ScalingExponents from = best_;
        for (const ScalingExponents move : {ScalingExponents{step, 0}, {-step, 0}, {0, step}, {0, -step}})
          better = consider({from.activity + move.activity, from.size + move.size}) || better;
      }
    return {best_ == ScalingExponents{} ? std::vector<float>{} : factors_of(best_), best_};
  }

 private:
  std::vector<float> factors_of(ScalingExponents exponents) const { return raised(activity_, sizes_, exponents); }

  // True where these exponents leave less error than all before.
  bool consider(ScalingExponents exponents) {
    constexpr double kSlack = 1e-9;
    if (std::min(exponents.activity, exponents.size) < -kSlack ||
        std::max(exponents.activity, exponents.size) > 1 + kSlack)
      return false;
    const auto place = std::pair(std::lround(exponents.activity * 100), std::lround(exponents.size * 100));
    if (!seen_.insert(place).second) return false;
    const double error = error_of(factors_of(exponents));
    if (!(error < least_)) return false;
    least_ = error;
    best_ = {static_cast<double>(place.first) / 100, static_cast<double>(place.second) / 100};
    return true;
  }

  double error_of(std::span<const float> factors) {
    const std::vector<float> importance = column_importance(statistics_, factors);
    const at::Tensor scale = at::from_blob(const_cast<float*>(factors.data()), {moment_.size(0)}, at::kFloat);
    std::vector<double> errors(tasks_.size(), std::numeric_limits<double>::infinity());
    std::vector<SolvedMatrix> rounded;
    for (const MatrixTask& task : tasks_)
      rounded.push_back(round_to_nearest(scaled(task, factors), importance, options_.grid, context_));
    run_shards(context_, static_cast<int64_t>(tasks_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      const auto at = static_cast<size_t>(i);
      if (!rounded[at].matrix) return;
      const at::Tensor error = at::empty({tasks_[at].rows, tasks_[at].cols}, at::kFloat);
      dequantize_rows(*rounded[at].matrix, 0, tasks_[at].rows,
                      {error.mutable_data_ptr<float>(), static_cast<size_t>(error.numel())});
      error.div_(scale).sub_(values_of(tasks_[at]));
      errors[at] = at::mm(error, moment_).mul_(error).sum(at::kDouble).item<double>();
    });
    return std::accumulate(errors.begin(), errors.end(), 0.0);
  }

  const InputStatistics& statistics_;
  const SolverOptions& options_;
  Context& context_;
  at::Tensor moment_;
  std::vector<MatrixTask> tasks_;
  std::vector<float> activity_, sizes_;
  std::set<std::pair<long, long>> seen_;  // exponents, in hundredths
  ScalingExponents best_;
  double least_ = std::numeric_limits<double>::infinity();
};

}  // namespace

InputScaling find_input_scaling(std::span<const MatrixTask> group, const InputStatistics& statistics,
                                const ColumnChannels& channels, const SolverOptions& options, Context& context) {
  prepare_torch();
  const at::NoGradGuard no_grad;
  return Search(group, statistics, channels, options, context).run();
}

InputStatistics divided_inputs(InputStatistics statistics, std::span<const float> factors) {
  const size_t n = factors.size();
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) statistics.second_moment[i * n + j] /= factors[i] * factors[j];
  return statistics;
}

std::vector<float> column_importance(const InputStatistics& statistics, std::span<const float> factors) {
  std::vector<float> importance = statistics.diagonal();
  for (size_t i = 0; i < factors.size(); ++i) importance[i] /= factors[i] * factors[i];
  return floored_importance(std::move(importance));
}

}  // namespace retort
