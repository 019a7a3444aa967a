#include "quantize/matrix_task.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <vector>

#include "core/base/lanes.h"

namespace retort {
namespace {

constexpr int64_t kPieceWeights = 1 << 16;

}  // namespace

int64_t rows_in_piece(int64_t cols) { return std::max<int64_t>(1, kPieceWeights / cols); }

int64_t count_pieces(const MatrixTask& task) {
  const int64_t rows = rows_in_piece(task.cols);
  return (task.rows + rows - 1) / rows;
}

void for_each_piece(const MatrixTask& task, Context& context, const std::function<void(const RowPiece&)>& body) {
  const int64_t rows = rows_in_piece(task.cols);
  context.threads.run(count_pieces(task), [&](int64_t index) {
    const int64_t first = index * rows, count = std::min(rows, task.rows - first);
    const auto size = static_cast<size_t>(count * task.cols);
    const auto values = std::make_unique_for_overwrite<float[]>(size);
    task.read(first, count, {values.get(), size});
    body({index, first, count, {values.get(), size}});
  });
}

MatrixTask scaled(const MatrixTask& task, std::span<const float> column_factors, std::span<const float> row_divisors) {
  if (column_factors.empty() && row_divisors.empty()) return task;
  MatrixTask result = task;
  result.read = [read = task.read, cols = static_cast<size_t>(task.cols), column_factors, row_divisors](
                    int64_t first, int64_t count, std::span<float> out) {
    read(first, count, out);
    for (size_t i = 0; i < out.size(); ++i) {
      if (!column_factors.empty()) out[i] *= column_factors[i % cols];
      if (!row_divisors.empty()) out[i] /= row_divisors[static_cast<size_t>(first) + i / cols];
    }
  };
  return result;
}

MatrixTask spread_rows(const MatrixTask& task, int64_t rows) {
  MatrixTask some = task;
  some.rows = std::min(rows, task.rows);
  some.read = [read = task.read, rows = some.rows, all = task.rows, cols = task.cols](int64_t first, int64_t count,
                                                                                      std::span<float> out) {
    for (int64_t i = 0; i < count; ++i)
      read((first + i) * all / rows, 1, out.subspan(static_cast<size_t>(i * cols), static_cast<size_t>(cols)));
  };
  return some;
}

void weigh_errors(std::span<const float> importance, std::span<const float> values, std::vector<float>& weights) {
  const size_t cols = importance.size();
  weights.resize(cols == 0 ? 0 : values.size());
  for (size_t start = 0; start < weights.size(); start += cols) {
    double squares = 0;
    for (const float value : values.subspan(start, cols)) squares += static_cast<double>(value) * value;
    const auto spread = static_cast<float>(squares / static_cast<double>(cols));
    for (size_t c = 0; c < cols; ++c)
      weights[start + c] = importance[c] * std::sqrt(spread + values[start + c] * values[start + c]);
  }
}

std::optional<Grid> fit_tensor_grid(const MatrixTask& task, GridRule rule, std::span<const float> importance) {
  if (task.scheme.granularity != Granularity::kTensor) return std::nullopt;
  std::vector<float> values(static_cast<size_t>(task.rows * task.cols));
  task.read(0, task.rows, values);
  if (!all_finite(values)) return Grid{};
  std::vector<float> weights;
  weigh_errors(importance, values, weights);
  return GridFitter(task.scheme, rule, task.scale_type).fit(values, weights);
}

namespace {

ErrorSums sum_tail(std::span<const float> values, std::span<const float> decoded) {
  ErrorSums sums;
  for (size_t i = 0; i < values.size(); ++i) {
    const double miss = values[i] - decoded[i];
    sums.error += miss * miss;
    sums.weight += static_cast<double>(values[i]) * values[i];
  }
  return sums;
}

constexpr size_t kRun = 1 << 12;  // values that are added up in floats

// Of a run, by lanes.
RETORT_EACH_ISA ErrorSums sum_run(std::span<const float> values, std::span<const float> decoded) {
  Lanes error = {}, weight = {};
  const size_t whole = values.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    const Lanes value = *reinterpret_cast<const Lanes*>(values.data() + i);
    const Lanes miss = value - *reinterpret_cast<const Lanes*>(decoded.data() + i);
    error += miss * miss;
    weight += value * value;
  }
  ErrorSums sums = sum_tail(values.subspan(whole), decoded.subspan(whole));
  for (int64_t lane = 0; lane < kLanes; ++lane) sums.error += error[lane], sums.weight += weight[lane];
  return sums;
}

// Of rows from `first` on.
ErrorSums sum_row_errors(const QuantizedMatrix& matrix, int64_t first, std::span<const float> values) {
  const auto cols = static_cast<size_t>(matrix.cols);
  std::vector<float> decoded(cols);
  ErrorSums sums;
  for (size_t start = 0; start < values.size(); start += cols) {
    dequantize_rows(matrix, first + static_cast<int64_t>(start / cols), 1, decoded);
    sums += sum_errors(values.subspan(start, cols), decoded);
  }
  return sums;
}

}  // namespace

ErrorSums sum_errors(std::span<const float> values, std::span<const float> decoded) {
  ErrorSums sums;
  for (size_t start = 0; start < values.size(); start += kRun) {
    const size_t size = std::min(kRun, values.size() - start);
    sums += sum_run(values.subspan(start, size), decoded.subspan(start, size));
  }
  return sums;
}

double relative_error(const MatrixTask& task, const QuantizedMatrix& matrix, Context& context) {
  std::vector<ErrorSums> sums(static_cast<size_t>(count_pieces(task)));
  for_each_piece(task, context, [&](const RowPiece& piece) {
    sums[static_cast<size_t>(piece.index)] = sum_row_errors(matrix, piece.first, piece.values);
  });
  return total(sums).relative();
}

ErrorSums total(std::span<const ErrorSums> sums) {
  ErrorSums total;
  for (const ErrorSums& sum : sums) total += sum;
  return total;
}

}  // namespace retort
