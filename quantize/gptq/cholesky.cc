#include "quantize/gptq/cholesky.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <utility>
#include <vector>

#include "model/shards.h"

namespace retort {
namespace {

constexpr int64_t kTile = 256;

struct Range {
  int64_t first, last;
};

std::vector<Range> tiles_below(int64_t limit) {
  std::vector<Range> tiles;
  for (int64_t first = 0; first < limit; first += kTile) tiles.push_back({first, std::min(limit, first + kTile)});
  return tiles;
}

at::Tensor tile(const at::Tensor& matrix, Range rows, Range cols) {
  return matrix.slice(0, rows.first, rows.last).slice(1, cols.first, cols.last);
}

// Turned by 180 degrees, an upper factor from the last row up is LAPACK's lower factor from the first row down.
bool factor_tile(at::Tensor diagonal) {
  const auto [lower, info] = at::linalg_cholesky_ex(at::flip(diagonal, {0, 1}).tril());
  if (info.item<int>() != 0 || !at::isfinite(lower).all().item<bool>()) return false;
  diagonal.copy_(at::flip(lower, {0, 1}));
  return true;
}

}  // namespace

bool factor_upper(at::Tensor& matrix, const Context& context) {
  prepare_torch();
  const at::NoGradGuard no_grad;
  const std::vector<Range> tiles = tiles_below(matrix.size(0));
  for (auto last = static_cast<int64_t>(tiles.size()) - 1; last >= 0; --last) {
    const Range cols = tiles[static_cast<size_t>(last)];
    const at::Tensor corner = tile(matrix, cols, cols);
    // The turned tile is read by its lower triangle, which is the upper one of the tile itself.
    if (!factor_tile(corner)) return false;
    run_shards(context, last, [&](int64_t i) {
      const at::NoGradGuard guard;
      at::Tensor panel = tile(matrix, tiles[static_cast<size_t>(i)], cols);
      panel.copy_(at::linalg_solve_triangular(corner.t(), panel, /*upper=*/false, /*left=*/false));
    });
    run_shards(context, last * (last + 1) / 2, [&](int64_t index) {
      const at::NoGradGuard guard;
      int64_t j = 0;
      for (; index > j; index -= ++j) {
      }
      const Range row = tiles[static_cast<size_t>(index)], col = tiles[static_cast<size_t>(j)];
      tile(matrix, row, col).addmm_(tile(matrix, row, cols), tile(matrix, col, cols).t(), 1, -1);
    });
  }
  return true;
}

}  // namespace retort
