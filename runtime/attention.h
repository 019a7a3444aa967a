// Causal attention of a chunk of tokens over the cache, one layer.
#pragma once

#include <cstdint>

#include "core/arch/model_config.h"
#include "core/base/thread_pool.h"
#include "runtime/kernels/kernel.h"
#include "runtime/kv_cache.h"

namespace retort {

// Queries that share one pass over the keys.
inline constexpr int64_t kQueryRows = 8;

struct AttentionArgs {
  const ModelConfig& config;
  const KvCache& cache;  // holds the keys and values of these tokens already
  int64_t layer;
  int64_t position;  // of the first token
  int64_t tokens;
  const float* queries;  // [token][heads * head_dim], rotated
  float* out;            // likewise
  float* scores;         // scratch: attention_scratch() floats
};

// Scratch that `attend` needs on `threads` threads, in floats.
int64_t attention_scratch(const ModelConfig& config, const KvCache& cache, const ThreadPool& threads);
void attend(const AttentionArgs& args, const Kernel& kernel, ThreadPool& threads);

}  // namespace retort
