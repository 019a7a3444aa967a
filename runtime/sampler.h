// Choosing the next token from logits. The same seed gives the same tokens on every machine.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace retort {

struct SamplingOptions {
  double temperature = 1.0;  // 0: greedy (the lowest id among equals)
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  int32_t next(std::span<const float> logits);

 private:
  SamplingOptions options_;
  uint64_t state_;
};

// Feeds `prompt`, then samples until an id of `stop_ids`, `max_new_tokens`, or `on_token` returns false.
// Returns the new ids without the stop id.
std::vector<int32_t> generate(Engine& engine, std::span<const int32_t> prompt, int64_t max_new_tokens,
                              const SamplingOptions& sampling, std::span<const int64_t> stop_ids, Context& context,
                              const std::function<bool(int32_t)>& on_token = {});

}  // namespace retort
