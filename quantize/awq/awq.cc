// The row "awq" of the table of quantizers: what is done once the columns are scaled (folding.h).
#include "quantize/awq/input_scaling.h"
#include "quantize/awq/scale_search.h"
#include "quantize/outliers.h"
#include "quantize/quantizer.h"
#include "quantize/rounding.h"

namespace retort {

std::vector<SolvedMatrix> solve_awq(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                    const SolverOptions& options, Context& context) {
  const bool finite = all_finite(statistics->second_moment);
  const std::vector<float> importance = finite ? column_importance(*statistics, {}) : std::vector<float>{};
  std::vector<SolvedMatrix> results;
  for (const MatrixTask& task : group) {
    const MatrixTask rest = without_outliers(task);
    SolvedMatrix solved = round_to_nearest(rest, importance, options.grid, context);
    if (solved.matrix && finite) search_scales(rest, *statistics, *solved.matrix, context);
    keep_outliers(task, solved, context);
    if (finite) solved.method = "awq", solved.relative_error.reset();
    if (solved.matrix && !finite) solved.fallback = "rounded to nearest: the activations hold NaN or infinity";
    results.push_back(std::move(solved));
  }
  return results;
}

}  // namespace retort
