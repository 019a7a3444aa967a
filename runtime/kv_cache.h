// Keys and values of one sequence, in the layout of the float32 weight tiles, so that attention is two products by
// the dense kernel: scores = K q with positions as rows, and output = V^T p with positions as columns.
#pragma once

#include <cstdint>

#include "core/arch/model_config.h"
#include "runtime/kernels/kernel.h"
#include "runtime/packed_matrix.h"

namespace retort {

class KvCache {
 public:
  KvCache(const ModelConfig& config, int64_t max_tokens);
  // `key` and `value` hold head_dim values, the key already rotated.
  void store(int64_t layer, int64_t head, int64_t position, const float* key, const float* value);
  // Positions [first, last); `first` is a multiple of kBlock.
  Tiles keys(int64_t layer, int64_t head, int64_t first, int64_t last) const;    // [last - first, head_dim]
  Tiles values(int64_t layer, int64_t head, int64_t first, int64_t last) const;  // [head_dim, last - first]
  int64_t max_tokens() const { return max_tokens_; }
  int64_t capacity() const { return capacity_; }  // max_tokens rounded up to whole blocks

  static uint64_t estimate_bytes(const ModelConfig& config, int64_t max_tokens);

 private:
  float* key_head(int64_t layer, int64_t head) const;
  float* value_head(int64_t layer, int64_t head) const;

  int64_t kv_heads_, head_dim_, padded_dim_, max_tokens_, capacity_;
  AlignedBuffer keys_;    // [layer][head][capacity / 16][head_dim][16]
  AlignedBuffer values_;  // [layer][head][padded_dim / 16][capacity][16]
};

}  // namespace retort
