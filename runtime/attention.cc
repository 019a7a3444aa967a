#include "runtime/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "runtime/linear.h"

namespace retort {
namespace {

// Rows of queries against one key head: some tokens of one head, or the heads of a group for one token.
struct Unit {
  int64_t kv_head;
  int64_t rows, stride;  // of queries and out, from `offset`
  int64_t offset;
  int64_t position;       // of the first row
  int64_t position_step;  // from row to row: 1 (tokens) or 0 (heads)
};

int64_t group_size(const ModelConfig& config) { return config.heads / config.kv_heads; }

int64_t unit_count(const AttentionArgs& a) {
  return a.tokens == 1 ? a.config.kv_heads : a.config.heads * ((a.tokens + kQueryRows - 1) / kQueryRows);
}

Unit make_unit(const AttentionArgs& a, int64_t index) {
  const int64_t dim = a.config.head_dim, group = group_size(a.config);
  if (a.tokens == 1)
    return {.kv_head = index,
            .rows = group,
            .stride = dim,
            .offset = index * group * dim,
            .position = a.position,
            .position_step = 0};
  const int64_t head = index % a.config.heads, first = index / a.config.heads * kQueryRows;
  const int64_t stride = a.config.query_size();
  return {.kv_head = head / group,
          .rows = std::min(kQueryRows, a.tokens - first),
          .stride = stride,
          .offset = first * stride + head * dim,
          .position = a.position + first,
          .position_step = 1};
}

void attend_unit(const AttentionArgs& a, const Unit& unit, float* scores, const Kernel& kernel) {
  const int64_t window = a.config.windows[static_cast<size_t>(a.layer)];
  const auto first_of = [&](int64_t position) { return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0; };
  // Whole blocks, so that sums over positions are cut in the same places whatever the chunk.
  const int64_t begin = first_of(unit.position) / kBlock * kBlock;
  const int64_t end = unit.position + (unit.rows - 1) * unit.position_step + 1;
  const int64_t score_stride = a.cache.capacity(), score_size = (end - begin + kTileRows - 1) / kTileRows * kTileRows;
  const Tiles keys = a.cache.keys(a.layer, unit.kv_head, begin, end);
  const Tiles values = a.cache.values(a.layer, unit.kv_head, begin, end);
  const auto tile_count = [](const Tiles& tiles) { return (tiles.rows + kTileRows - 1) / kTileRows; };
  const auto matmul = kernel.matmul[static_cast<int>(WeightType::kF32)];

  Inputs inputs{.tokens = unit.rows,
                .values = a.queries + unit.offset,
                .value_stride = unit.stride,
                .codes = nullptr,
                .scales = nullptr,
                .negative_sums = nullptr};
  matmul({.weights = keys,
          .inputs = inputs,
          .first_tile = 0,
          .last_tile = tile_count(keys),
          .out = scores,
          .out_stride = score_stride});
  const float scale = 1.0f / std::sqrt(static_cast<float>(a.config.head_dim));
  for (int64_t row = 0; row < unit.rows; ++row) {
    const int64_t position = unit.position + row * unit.position_step;
    kernel.softmax(scores + row * score_stride, first_of(position) - begin, position + 1 - begin, score_size, scale);
  }
  inputs.values = scores;
  inputs.value_stride = score_stride;
  matmul({.weights = values,
          .inputs = inputs,
          .first_tile = 0,
          .last_tile = tile_count(values),
          .out = a.out + unit.offset,
          .out_stride = unit.stride});
}

int64_t rows_per_unit(const ModelConfig& config) { return std::max(kQueryRows, group_size(config)); }

}  // namespace

int64_t attention_scratch(const ModelConfig& config, const KvCache& cache, const ThreadPool& threads) {
  return threads.size() * rows_per_unit(config) * cache.capacity();
}

void attend(const AttentionArgs& a, const Kernel& kernel, ThreadPool& threads) {
  const int64_t units = unit_count(a), per_slot = rows_per_unit(a.config) * a.cache.capacity();
  std::atomic<int64_t> next{0};
  // One slot of scratch per thread; units are taken by whoever is free and do not depend on the slot.
  parallel(threads, std::min<int64_t>(units, threads.size()), [&](int64_t slot) {
    for (int64_t i = next++; i < units; i = next++) attend_unit(a, make_unit(a, i), a.scores + slot * per_slot, kernel);
  });
}

}  // namespace retort
