#include "quantize/awq/aim.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "model/shards.h"
#include "quantize/gptq/factor.h"

namespace retort {
namespace {

constexpr int64_t kRows = 256;  // of a shard

// missing H^-1 [rows, features] by H = F diag(pivots) F^T.
at::Tensor correction(const at::Tensor& missing, const HessianFactor& factor) {
  const at::Tensor pivots = at::from_blob(const_cast<float*>(factor.pivots.data()), {missing.size(1), 1}, at::kFloat);
  const at::Tensor half = at::linalg_solve_triangular(factor.feedback, missing.t(), /*upper=*/true, /*left=*/true,
                                                      /*unitriangular=*/true);
  return at::linalg_solve_triangular(factor.feedback.t(), half / pivots, /*upper=*/false, /*left=*/true,
                                     /*unitriangular=*/true)
      .t();
}

// What the rows [first, first + count) of `missing` become: the weights to quantize.
void move_rows(const MatrixTask& task, const HessianFactor& factor, int64_t first, int64_t count,
               std::vector<float>& missing) {
  const at::Tensor rows = at::from_blob(missing.data() + first * task.cols, {count, task.cols}, at::kFloat);
  const at::Tensor weights = at::empty_like(rows);
  task.read(first, count, {weights.mutable_data_ptr<float>(), static_cast<size_t>(weights.numel())});
  rows.copy_(correction(rows, factor).add_(weights));
}

}  // namespace

std::vector<MatrixTask> aimed(std::span<const MatrixTask> group, InputStatistics& statistics,
                              const SolverOptions& options, const Context& context) {
  prepare_torch();
  std::vector<MatrixTask> tasks(group.begin(), group.end());
  std::vector<std::vector<float>> missing = std::exchange(statistics.missing, {});
  if (missing.empty()) return tasks;
  const HessianFactor factor = factor_hessian(statistics, {.damp = options.damp}, context);
  if (!factor.failure.empty()) return tasks;
  for (size_t i = 0; i < tasks.size(); ++i) {
    MatrixTask& task = tasks[i];
    run_shards(context, (task.rows + kRows - 1) / kRows, [&](int64_t shard) {
      const at::NoGradGuard no_grad;
      move_rows(task, factor, shard * kRows, std::min(kRows, task.rows - shard * kRows), missing[i]);
    });
    if (!all_finite(missing[i])) continue;
    task.read = [values = std::make_shared<const std::vector<float>>(std::move(missing[i])), cols = task.cols](
                    int64_t first, int64_t count, std::span<float> out) {
      std::copy_n(values->begin() + first * cols, count * cols, out.begin());
    };
  }
  return tasks;
}

}  // namespace retort
