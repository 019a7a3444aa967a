// The row "gptq" of the table of quantizers: the solver, and what is done where it cannot work.
#include <chrono>

#include "quantize/gptq/factor.h"
#include "quantize/gptq/solver.h"
#include "quantize/rounding.h"

namespace retort {
namespace {

SolvedMatrix fall_back(const MatrixTask& task, const std::string& reason, const SolverOptions& options,
                       Context& context) {
  SolvedMatrix solved = round_to_nearest(task, {}, options.grid, context);
  if (solved.matrix) solved.fallback = "rounded to nearest: " + reason;
  return solved;
}

SolvedMatrix finish(GptqResult&& result, const MatrixTask& task, const HessianFactor& factor,
                    const SolverOptions& options, Context& context) {
  if (!result.finite) return fall_back(task, "weights or scales are not finite", options, context);
  SolvedMatrix solved{
      .matrix = std::move(result.matrix), .method = "gptq", .fallback = {}, .scale_type = task.scale_type};
  solved.details = {{"damp", factor.damp}, {"objective", result.objective}};
  return solved;
}

}  // namespace

std::vector<SolvedMatrix> solve_gptq(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                     const SolverOptions& options, Context& context) {
  const auto start = std::chrono::steady_clock::now();
  const HessianFactor factor = factor_hessian(*statistics, options, context, group.front().outliers);
  std::vector<SolvedMatrix> solved;
  if (!factor.failure.empty()) {
    for (const MatrixTask& task : group) solved.push_back(fall_back(task, factor.failure, options, context));
    return solved;
  }
  std::vector<GptqResult> results = run_gptq(group, factor, statistics->missing, context);
  for (size_t i = 0; i < group.size(); ++i)
    solved.push_back(finish(std::move(results[i]), group[i], factor, options, context));
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  for (SolvedMatrix& matrix : solved) matrix.seconds = elapsed.count() / static_cast<double>(group.size());
  return solved;
}

}  // namespace retort
