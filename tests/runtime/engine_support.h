// What the tests of the engine share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine.h"

namespace retort::testing {

struct Runner {
  explicit Runner(int count = 1) : threads(count) {}
  ThreadPool threads;
  ProgressSink silent;
  Context context{threads, silent};
};

// All logits of `tokens`, fed in pieces of `piece`.
std::vector<float> logits_of(Engine& engine, std::span<const int32_t> tokens, size_t piece);
std::vector<uint32_t> bits_of(std::span<const float> values);
// KL(reference || logits) in nats, averaged over rows of `vocabulary` logits.
double kl_mean(std::span<const float> reference, std::span<const float> logits, size_t vocabulary);

}  // namespace retort::testing
