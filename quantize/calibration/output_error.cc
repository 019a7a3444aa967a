#include "quantize/calibration/output_error.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "model/shards.h"
#include "quantize/rounding.h"

namespace retort {
namespace {

constexpr int64_t kRows = 32;

float* row_of(at::Tensor& rows, int64_t row) { return rows.mutable_data_ptr<float>() + row * rows.size(1); }

// Rows of `matrix` as spread_rows takes them.
at::Tensor spread(const QuantizedMatrix& matrix, int64_t rows) {
  at::Tensor values = at::empty({rows, matrix.cols}, at::kFloat);
  for (int64_t row = 0; row < rows; ++row)
    dequantize_rows(matrix, row * matrix.rows / rows, 1, {row_of(values, row), static_cast<size_t>(matrix.cols)});
  return values;
}

double output_square(const at::Tensor& rows, const at::Tensor& moment) {
  return (at::mm(rows, moment) * rows).sum(at::kDouble).item<double>();
}

void add_output_error(const MatrixTask& task, const at::Tensor& moment, SolvedMatrix& solved, Context& context) {
  const MatrixTask some = spread_rows(task, kRows);
  const SolvedMatrix rounded = round_to_nearest(some, {}, GridRule::kSmallestError, context);
  if (!solved.matrix || !rounded.matrix) return;
  at::Tensor weights = at::empty({some.rows, some.cols}, at::kFloat);
  some.read(0, some.rows, {row_of(weights, 0), static_cast<size_t>(weights.numel())});
  at::Tensor values = spread(*solved.matrix, some.rows);
  if (!solved.column_factors.empty()) values.div_(at::tensor(solved.column_factors));
  const double all = output_square(weights, moment);
  const double before = std::sqrt(output_square(weights - spread(*rounded.matrix, some.rows), moment) / all);
  const double after = std::sqrt(output_square(weights - values, moment) / all);
  if (!std::isfinite(before) || !std::isfinite(after)) return;
  solved.details["output_error_rounded"] = before;
  solved.details["output_error"] = after;
}

}  // namespace

void add_output_errors(std::span<const MatrixTask> tasks, const InputStatistics& statistics,
                       std::span<SolvedMatrix> solved, Context& context) {
  prepare_torch();
  const at::NoGradGuard no_grad;
  const at::Tensor moment = at::from_blob(const_cast<float*>(statistics.second_moment.data()),
                                          {statistics.features, statistics.features}, at::kFloat);
  for (size_t i = 0; i < tasks.size(); ++i) add_output_error(tasks[i], moment, solved[i], context);
}

}  // namespace retort
