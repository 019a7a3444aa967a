#include "quantize/gptq/second_pass.h"

namespace retort {
namespace {

constexpr int kSweeps = 16;

void take(const HessianFactor& factor, const RowErrors& row, const BestCode& best, std::span<uint8_t> codes) {
  const auto column = static_cast<size_t>(best.column), n = codes.size();
  const float change = best.error - row.error[column];
  const float* moments = factor.second_moment.data() + column * n;
  add_multiple(moments, change, static_cast<int64_t>(n), row.gradient);
  row.gradient[column] += change * (factor.diagonal[column] - moments[column]);
  row.error[column] = best.error;
  codes[column] = best.code;
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
        take(factor, row, best, codes);
        changed = true;
      }
    }
  }
  double objective = 0;
  for (int64_t c = 0; c < columns; ++c) objective += static_cast<double>(row.gradient[c]) * row.error[c];
  return objective;
}

}  // namespace retort
