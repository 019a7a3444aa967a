#include "quantize/calibration/second_moment.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

#include "model/paired_rows.h"
#include "model/shards.h"

namespace retort {
namespace {

// Small enough that even the narrowest inputs give every thread a tile; on a GPU there is one.
int64_t tile_width(const at::Tensor& input) {
  const int64_t features = input.size(-1);
  if (!input.is_cpu()) return features;
  return features < 1024 ? 128 : 256;
}

struct Tile {
  int64_t row, col, rows, cols;
};

Tile make_tile(int64_t row, int64_t col, int64_t width, int64_t rows, int64_t cols) {
  return {row, col, std::min(width, rows - row), std::min(width, cols - col)};
}

std::vector<Tile> upper_tiles(int64_t features, int64_t width) {
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < features; row += width)
    for (int64_t col = row; col < features; col += width)
      tiles.push_back(make_tile(row, col, width, features, features));
  return tiles;
}

std::vector<Tile> all_tiles(int64_t rows, int64_t cols, int64_t width) {
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < rows; row += width)
    for (int64_t col = 0; col < cols; col += width) tiles.push_back(make_tile(row, col, width, rows, cols));
  return tiles;
}

// sums[tile] += left^T right, over rows of float32.
void add_tile(const at::Tensor& left, const at::Tensor& right, const Tile& tile, const at::Tensor& sums) {
  sums.narrow(0, tile.row, tile.rows)
      .narrow(1, tile.col, tile.cols)
      .addmm_(left.narrow(1, tile.row, tile.rows).t(), right.narrow(1, tile.col, tile.cols));
}

// Sums are kept in float32 whatever the type of the inputs, and each tile of them is computed by one thread over the
// inputs in their order.
void sum_products(std::span<const at::Tensor> left, std::span<const at::Tensor> right, const std::vector<Tile>& tiles,
                  const Context& context, const at::Tensor& sums) {
  for (size_t k = 0; k < left.size(); ++k) {
    const at::Tensor a = left[k].flatten(0, -2).to(at::kFloat);
    const at::Tensor b = left[k].is_same(right[k]) ? a : right[k].flatten(0, -2).to(at::kFloat);
    run_shards(context, static_cast<int64_t>(tiles.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      add_tile(a, b, tiles[static_cast<size_t>(i)], sums);
    });
  }
}

// The upper half of the above, for bfloat16 where the processor multiplies it.
void sum_paired_products(std::span<const at::Tensor> inputs, const Context& context, std::span<float> sums) {
  const int64_t features = inputs.front().size(-1);
  PairedRows paired;
  for (const at::Tensor& input : inputs) {
    const at::Tensor rows = input.contiguous();
    const auto* values = reinterpret_cast<const uint16_t*>(rows.const_data_ptr<at::BFloat16>());
    paired.reshape(rows.numel() / features, features);
    context.threads.run(paired.panels(), [&](int64_t panel) { paired.pack(values, panel); });
    context.threads.run(paired.panels(), [&](int64_t row) {
      for (int64_t col = row; col < paired.panels(); ++col) paired.add_products(row, col, sums.data());
    });
  }
}

// The lower half, and the factor of the definition.
void complete(at::Tensor sums, double factor, const Context& context) {
  const std::vector<Tile> tiles = upper_tiles(sums.size(0), 256);
  run_shards(context, static_cast<int64_t>(tiles.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const Tile& tile = tiles[static_cast<size_t>(i)];
    at::Tensor upper = sums.narrow(0, tile.row, tile.rows).narrow(1, tile.col, tile.cols);
    upper.mul_(factor);
    at::Tensor lower = sums.narrow(0, tile.col, tile.cols).narrow(1, tile.row, tile.rows);
    lower.copy_(tile.row == tile.col ? upper.triu() + upper.triu(1).t() : upper.t());
  });
}

bool multiplied_in_pairs(const at::Tensor& input) {
  return input.is_cpu() && input.scalar_type() == at::kBFloat16 && has_pair_products();
}

}  // namespace

InputStatistics second_moment(std::span<const at::Tensor> inputs, int64_t sequences, const Context& context) {
  const at::NoGradGuard no_grad;
  const at::Tensor& first = inputs.front();
  const int64_t features = first.size(-1);
  InputStatistics statistics{features, std::vector<float>(static_cast<size_t>(features * features))};
  const at::Tensor result = at::from_blob(statistics.second_moment.data(), {features, features}, at::kFloat);
  if (multiplied_in_pairs(first)) {
    sum_paired_products(inputs, context, statistics.second_moment);
  } else {
    const at::Tensor sums = first.is_cpu() ? result : at::zeros_like(result, first.device());
    sum_products(inputs, inputs, upper_tiles(features, tile_width(first)), context, sums);
    if (!first.is_cpu()) result.copy_(sums);
  }
  complete(result, 2.0 / static_cast<double>(sequences), context);
  return statistics;
}

std::vector<float> mean_absolute(std::span<const at::Tensor> inputs, const Context& context) {
  std::vector<at::Tensor> sums(inputs.size());
  run_shards(context, static_cast<int64_t>(inputs.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    sums[static_cast<size_t>(i)] = inputs[static_cast<size_t>(i)].abs().flatten(0, -2).sum(0, false, at::kDouble).cpu();
  });
  at::Tensor total = sums.front();
  int64_t tokens = 0;
  for (const at::Tensor& input : inputs) tokens += input.numel() / input.size(-1);
  for (size_t i = 1; i < sums.size(); ++i) total += sums[i];
  const at::Tensor means = (total / static_cast<double>(tokens)).to(at::kFloat);
  const float* values = means.const_data_ptr<float>();
  return {values, values + means.numel()};
}

at::Tensor cross_moment(std::span<const at::Tensor> left, std::span<const at::Tensor> right, int64_t sequences,
                        const Context& context) {
  const at::NoGradGuard no_grad;
  const int64_t rows = left.front().size(-1), cols = right.front().size(-1);
  const at::Tensor sums = at::zeros({rows, cols}, left.front().options().dtype(at::kFloat));
  sum_products(left, right, all_tiles(rows, cols, tile_width(right.front())), context, sums);
  return sums.mul_(2.0 / static_cast<double>(sequences)).cpu();
}

}  // namespace retort
