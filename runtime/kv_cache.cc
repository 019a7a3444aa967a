#include "runtime/kv_cache.h"

namespace retort {
namespace {

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

size_t float_bytes(int64_t count) { return static_cast<size_t>(count) * sizeof(float); }

}  // namespace

KvCache::KvCache(const ModelConfig& config, int64_t max_tokens)
    : kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      padded_dim_(round_up(config.head_dim, kTileRows)),
      max_tokens_(max_tokens),
      capacity_(round_up(max_tokens, kBlock)),
      keys_(float_bytes(config.layers * kv_heads_ * capacity_ * head_dim_)),
      values_(float_bytes(config.layers * kv_heads_ * capacity_ * padded_dim_)) {}

uint64_t KvCache::estimate_bytes(const ModelConfig& config, int64_t max_tokens) {
  const int64_t per_position = config.head_dim + round_up(config.head_dim, kTileRows);
  return float_bytes(config.layers * config.kv_heads * round_up(max_tokens, kBlock) * per_position);
}

float* KvCache::key_head(int64_t layer, int64_t head) const {
  return keys_.as<float>() + (layer * kv_heads_ + head) * capacity_ * head_dim_;
}

float* KvCache::value_head(int64_t layer, int64_t head) const {
  return values_.as<float>() + (layer * kv_heads_ + head) * capacity_ * padded_dim_;
}

void KvCache::store(int64_t layer, int64_t head, int64_t position, const float* key, const float* value) {
  float* keys = key_head(layer, head) + position / kTileRows * kTileRows * head_dim_ + position % kTileRows;
  for (int64_t d = 0; d < head_dim_; ++d) keys[d * kTileRows] = key[d];
  float* values = value_head(layer, head) + position * kTileRows;
  for (int64_t d = 0; d < head_dim_; ++d) values[d / kTileRows * capacity_ * kTileRows + d % kTileRows] = value[d];
}

Tiles KvCache::keys(int64_t layer, int64_t head, int64_t first, int64_t last) const {
  return {.data = key_head(layer, head) + first * head_dim_,
          .tile_bytes = static_cast<int64_t>(float_bytes(head_dim_ * kTileRows)),
          .rows = last - first,
          .cols = head_dim_,
          .groups = 1,
          .scales = nullptr,
          .zeros = nullptr,
          .zero = 0};
}

Tiles KvCache::values(int64_t layer, int64_t head, int64_t first, int64_t last) const {
  return {.data = value_head(layer, head) + first * kTileRows,
          .tile_bytes = static_cast<int64_t>(float_bytes(capacity_ * kTileRows)),
          .rows = head_dim_,
          .cols = last - first,
          .groups = 1,
          .scales = nullptr,
          .zeros = nullptr,
          .zero = 0};
}

}  // namespace retort
