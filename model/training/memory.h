// How much memory a run takes, so that it can keep under a limit, or refuse before it starts.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/arch/model_config.h"
#include "core/base/context.h"

namespace retort {

// Upper estimates in bytes, for float32 on a CPU.
struct MemoryNeed {
  uint64_t fixed = 0;      // LibTorch, weights, optimizer, sum of gradients, text
  uint64_t per_shard = 0;  // activations, logits of a chunk and gradients of one shard
};

MemoryNeed memory_need(const ModelConfig& teacher, const ModelConfig& student, int64_t shard_tokens,
                       int64_t chunk_tokens, int64_t text_tokens);

// How many shards may run side by side: as many as there are threads, or as fit under the limit (the result is the
// same). An Error of `operation` when not even one fits.
int64_t shards_side_by_side(const MemoryNeed& need, std::string_view operation, std::string_view remedy,
                            const Context& context);

}  // namespace retort
