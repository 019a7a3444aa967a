#include "quantize/awq/aim.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/shards.h"
#include "quantize/gptq/factor.h"

namespace retort {
namespace {

// missing H^-1 [rows, features] by H = F diag(pivots) F^T.
at::Tensor correction(std::span<const float> missing, const HessianFactor& factor) {
  const auto n = static_cast<int64_t>(factor.pivots.size());
  const at::Tensor rows =
      at::from_blob(const_cast<float*>(missing.data()), {static_cast<int64_t>(missing.size()) / n, n}, at::kFloat);
  const at::Tensor pivots = at::from_blob(const_cast<float*>(factor.pivots.data()), {n, 1}, at::kFloat);
  const at::Tensor half = at::linalg_solve_triangular(factor.feedback, rows.t(), /*upper=*/true, /*left=*/true,
                                                      /*unitriangular=*/true);
  return at::linalg_solve_triangular(factor.feedback.t(), half / pivots, /*upper=*/false, /*left=*/true,
                                     /*unitriangular=*/true)
      .t();
}

MatrixTask moved(const MatrixTask& task, const at::Tensor& by) {
  const at::Tensor values = by.contiguous();
  const auto size = static_cast<size_t>(values.numel());
  std::vector<float> weights(size);
  task.read(0, task.rows, weights);
  values.add_(at::from_blob(weights.data(), values.sizes(), at::kFloat));
  if (!all_finite({values.const_data_ptr<float>(), size})) return task;
  MatrixTask result = task;
  result.read = [values, cols = task.cols](int64_t first, int64_t count, std::span<float> out) {
    std::copy_n(values.const_data_ptr<float>() + first * cols, count * cols, out.data());
  };
  return result;
}

}  // namespace

std::vector<MatrixTask> aimed(std::span<const MatrixTask> group, const InputStatistics& statistics,
                              const SolverOptions& options, const Context& context) {
  prepare_torch();
  const at::NoGradGuard no_grad;
  std::vector<MatrixTask> tasks(group.begin(), group.end());
  if (statistics.missing.empty()) return tasks;
  const HessianFactor factor = factor_hessian(statistics, {.damp = options.damp}, context);
  if (!factor.failure.empty()) return tasks;
  run_shards(context, static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const at::NoGradGuard guard;
    const auto at = static_cast<size_t>(i);
    tasks[at] = moved(tasks[at], correction(statistics.missing[at], factor));
  });
  return tasks;
}

}  // namespace retort
