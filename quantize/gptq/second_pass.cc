#include "quantize/gptq/second_pass.h"

#include <algorithm>
#include <cmath>

namespace retort {
namespace {

constexpr int kSweeps = 16;

// Gives a column another error: the gradient follows.
void change_error(const HessianFactor& factor, const RowErrors& row, int64_t at, float error) {
  const auto column = static_cast<size_t>(at), n = factor.diagonal.size();
  const float change = error - row.error[column];
  const float* moments = factor.second_moment.data() + column * n;
  add_multiple(moments, change, static_cast<int64_t>(n), row.gradient);
  row.gradient[column] += change * (factor.diagonal[column] - moments[column]);
  row.error[column] = error;
}

// Each outlier becomes the f16 number that is best while all others stay.
bool move_outliers(const HessianFactor& factor, const RowErrors& row) {
  bool changed = false;
  for (size_t i = 0; i < row.outliers.size(); ++i) {
    const int64_t column = row.outliers[i];
    const float value = round_to_f16(row.kept[i] + row.gradient[column] * row.inverse_diagonal[column]);
    if (value == row.kept[i] || !std::isfinite(value)) continue;
    change_error(factor, row, column, row.original[column] - value);
    row.kept[i] = value;
    changed = true;
  }
  return changed;
}

}  // namespace

double descend(const HessianFactor& factor, const RowErrors& row, std::span<const Grid> grids, int64_t group,
               const Levels& levels, std::span<uint8_t> codes) {
  const auto columns = static_cast<int64_t>(codes.size());
  bool changed = true;
  for (int sweep = 0; changed && sweep < kSweeps; ++sweep) {
    changed = false;
    for (int64_t begin = 0; begin < columns; begin += group) {
      const Grid& grid = grids[static_cast<size_t>(begin / group)];
      for (int64_t column = begin;; ++column) {
        const BestCode best = first_change(row, grid, levels, column, begin + group);
        column = best.column;
        if (column == begin + group) break;
        if (std::ranges::binary_search(row.outliers, column)) continue;
        change_error(factor, row, column, best.error);
        codes[static_cast<size_t>(column)] = best.code;
        changed = true;
      }
    }
    changed = move_outliers(factor, row) || changed;
  }
  double objective = 0;
  for (int64_t c = 0; c < columns; ++c) objective += static_cast<double>(row.gradient[c]) * row.error[c];
  return objective;
}

}  // namespace retort
