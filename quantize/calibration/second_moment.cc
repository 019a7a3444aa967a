#include "quantize/calibration/second_moment.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

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

at::Tensor columns(const at::Tensor& input, int64_t first, int64_t count) {
  return input.flatten(0, -2).narrow(1, first, count).to(at::kFloat);
}

// Sums are kept in float32 whatever the type of the inputs.
at::Tensor sum_tile(std::span<const at::Tensor> left, std::span<const at::Tensor> right, const Tile& tile) {
  at::Tensor sum = at::zeros({tile.rows, tile.cols}, left.front().options().dtype(at::kFloat));
  for (size_t i = 0; i < left.size(); ++i)
    sum.addmm_(columns(left[i], tile.row, tile.rows).t(), columns(right[i], tile.col, tile.cols));
  return sum;
}

}  // namespace

InputStatistics second_moment(std::span<const at::Tensor> inputs, int64_t sequences, const Context& context) {
  const int64_t features = inputs.front().size(-1);
  InputStatistics statistics{features, std::vector<float>(static_cast<size_t>(features * features))};
  const at::Tensor result = at::from_blob(statistics.second_moment.data(), {features, features}, at::kFloat);
  const std::vector<Tile> tiles = upper_tiles(features, tile_width(inputs.front()));
  run_shards(context, static_cast<int64_t>(tiles.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const Tile& tile = tiles[static_cast<size_t>(i)];
    const at::Tensor sum = sum_tile(inputs, inputs, tile).mul_(2.0 / static_cast<double>(sequences)).cpu();
    result.narrow(0, tile.row, tile.rows).narrow(1, tile.col, tile.cols).copy_(sum);
    result.narrow(0, tile.col, tile.cols).narrow(1, tile.row, tile.rows).copy_(sum.t());
  });
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
  const int64_t rows = left.front().size(-1), cols = right.front().size(-1);
  const at::Tensor result = at::empty({rows, cols}, at::kFloat);
  const std::vector<Tile> tiles = all_tiles(rows, cols, tile_width(right.front()));
  run_shards(context, static_cast<int64_t>(tiles.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const Tile& tile = tiles[static_cast<size_t>(i)];
    const at::Tensor sum = sum_tile(left, right, tile).mul_(2.0 / static_cast<double>(sequences)).cpu();
    result.narrow(0, tile.row, tile.rows).narrow(1, tile.col, tile.cols).copy_(sum);
  });
  return result;
}

}  // namespace retort
