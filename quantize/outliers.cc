#include "quantize/outliers.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <utility>
#include <vector>

#include "quantize/rounding.h"

namespace retort {
namespace {

constexpr int64_t kShards = 16;

// By column: the sum over the rows of the squared errors.
std::vector<double> squared_errors(const MatrixTask& task, const QuantizedMatrix& rounded, Context& context) {
  const auto cols = static_cast<size_t>(task.cols);
  std::vector<std::vector<double>> shards(kShards, std::vector<double>(cols));
  context.threads.run(kShards, [&](int64_t shard) {
    std::vector<float> weights(cols), decoded(cols);
    std::vector<double>& sums = shards[static_cast<size_t>(shard)];
    for (int64_t row = shard; row < task.rows; row += kShards) {
      task.read(row, 1, weights);
      dequantize_rows(rounded, row, 1, decoded);
      for (size_t c = 0; c < cols; ++c) {
        const double miss = weights[c] - decoded[c];
        sums[c] += miss * miss;
      }
    }
  });
  std::vector<double> sums(cols);
  for (const std::vector<double>& shard : shards)
    for (size_t c = 0; c < cols; ++c) sums[c] += shard[c];
  return sums;
}

// The places of the largest, rising; of equals the first.
std::vector<int32_t> places_of_largest(const std::vector<double>& values, int64_t count) {
  std::vector<int32_t> places(values.size());
  std::iota(places.begin(), places.end(), 0);
  const auto value = [&](int32_t place) { return values[static_cast<size_t>(place)]; };
  std::ranges::stable_sort(places, std::ranges::greater(), value);
  places.resize(static_cast<size_t>(count));
  std::ranges::sort(places);
  return places;
}

}  // namespace

void choose_outliers(std::span<MatrixTask> group, int64_t count, std::span<const float> activity, GridRule rule,
                     Context& context) {
  if (count == 0) return;
  std::vector<double> losses(static_cast<size_t>(group.front().cols));
  bool any = false;
  for (const MatrixTask& task : group) {
    const SolvedMatrix rounded = round_to_nearest(task, {}, rule, context);
    if (!rounded.matrix) continue;
    any = true;
    const std::vector<double> errors = squared_errors(task, *rounded.matrix, context);
    for (size_t c = 0; c < losses.size(); ++c) losses[c] += errors[c];
  }
  if (!any) return;
  if (all_finite(activity))
    for (size_t c = 0; c < activity.size(); ++c) losses[c] *= activity[c];
  const std::vector<int32_t> outliers = places_of_largest(losses, count);
  for (MatrixTask& task : group) task.outliers = outliers;
}

MatrixTask without_outliers(const MatrixTask& task) {
  MatrixTask rest = task;
  rest.outliers.clear();
  if (task.outliers.empty()) return rest;
  rest.read = [read = task.read, outliers = task.outliers, cols = static_cast<size_t>(task.cols)](
                  int64_t first, int64_t count, std::span<float> out) {
    read(first, count, out);
    for (size_t row = 0; row < out.size(); row += cols)
      for (const int32_t c : outliers) out[row + static_cast<size_t>(c)] = 0;
  };
  return rest;
}

void keep_outliers(const MatrixTask& task, SolvedMatrix& solved, Context& context) {
  if (task.outliers.empty() || !solved.matrix) return;
  QuantizedMatrix& matrix = *solved.matrix;
  const auto cols = static_cast<size_t>(task.cols), count = task.outliers.size();
  matrix.outlier_columns = task.outliers;
  matrix.outliers.resize(static_cast<size_t>(task.rows) * count);
  std::atomic<bool> finite = true;
  for_each_piece(task, context, [&](const RowPiece& piece) {
    if (!all_finite(piece.values)) finite = false;
    float* out = matrix.outliers.data() + static_cast<size_t>(piece.first) * count;
    for (size_t row = 0; row < piece.values.size(); row += cols)
      for (const int32_t c : task.outliers) *out++ = round_to_f16(piece.values[row + static_cast<size_t>(c)]);
  });
  solved.relative_error.reset();  // it was that of the others
  if (all_finite(matrix.outliers)) return;
  solved.matrix.reset();
  solved.fallback = finite ? "a weight of a column in 16 bits is too large for f16" : kNotFinite;
}

}  // namespace retort
