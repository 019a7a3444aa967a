#include "export/rope_settings.h"

#include <algorithm>
#include <cmath>

namespace retort {
namespace {

constexpr float kTolerance = 1e-6f;

bool same_frequencies(const ModelConfig& a, const ModelConfig& b) {
  return std::ranges::equal(rope_frequencies(a), rope_frequencies(b),
                            [](float x, float y) { return std::abs(x - y) <= kTolerance * std::abs(x); });
}

}  // namespace

Json llama3_settings(const ModelConfig& config) {
  if (config.rope.factors.empty()) return nullptr;
  ModelConfig guess = config;
  guess.rope.scaling = RopeScaling::kLlama3;
  guess.rope.factor = std::ranges::max(config.rope.factors);
  guess.rope.low_freq_factor = 1;
  guess.rope.high_freq_factor = 4;
  guess.rope.factors.clear();
  for (int64_t context = 16; context <= int64_t{1} << 24; context *= 2) {
    guess.rope.original_context = context;
    if (!same_frequencies(config, guess)) continue;
    return {{"rope_theta", config.rope.theta},
            {"rope_type", "llama3"},
            {"factor", guess.rope.factor},
            {"low_freq_factor", guess.rope.low_freq_factor},
            {"high_freq_factor", guess.rope.high_freq_factor},
            {"original_max_position_embeddings", context}};
  }
  return nullptr;
}

}  // namespace retort
