#include "quantize/matrix_task.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace retort {
namespace {

constexpr int64_t kPieceWeights = 1 << 16;

int64_t rows_per_piece(const MatrixTask& task) { return std::max<int64_t>(1, kPieceWeights / task.cols); }

struct Squares {
  double error = 0, weight = 0;
};

Squares sum_squares(const RowPiece& piece, const QuantizedMatrix& matrix) {
  std::vector<float> decoded(piece.values.size());
  dequantize_rows(matrix, piece.first, piece.count, decoded);
  Squares sums;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const double value = piece.values[i], error = value - decoded[i];
    sums.error += error * error;
    sums.weight += value * value;
  }
  return sums;
}

}  // namespace

int64_t count_pieces(const MatrixTask& task) {
  const int64_t rows = rows_per_piece(task);
  return (task.rows + rows - 1) / rows;
}

void for_each_piece(const MatrixTask& task, Context& context, const std::function<void(const RowPiece&)>& body) {
  const int64_t rows = rows_per_piece(task);
  context.threads.run(count_pieces(task), [&](int64_t index) {
    const int64_t first = index * rows, count = std::min(rows, task.rows - first);
    std::vector<float> values(static_cast<size_t>(count * task.cols));
    task.read(first, count, values);
    body({index, first, count, values});
  });
}

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

std::optional<Grid> fit_tensor_grid(const MatrixTask& task) {
  if (task.scheme.granularity != Granularity::kTensor) return std::nullopt;
  std::vector<float> values(static_cast<size_t>(task.rows * task.cols));
  task.read(0, task.rows, values);
  return all_finite(values) ? GridFitter(task.scheme).fit(values) : Grid{};
}

double relative_error(const MatrixTask& task, const QuantizedMatrix& matrix, Context& context) {
  std::vector<Squares> sums(static_cast<size_t>(count_pieces(task)));
  for_each_piece(task, context,
                 [&](const RowPiece& piece) { sums[static_cast<size_t>(piece.index)] = sum_squares(piece, matrix); });
  Squares total;
  for (const Squares& sum : sums) total = {total.error + sum.error, total.weight + sum.weight};
  return total.weight > 0 ? std::sqrt(total.error / total.weight) : 0.0;
}

}  // namespace retort
