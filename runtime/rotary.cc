#include "runtime/rotary.h"

#include <cmath>

namespace retort {

Rotary::Rotary(const ModelConfig& config, int64_t max_tokens)
    : original_context_(config.rope.original_context),
      scale_(static_cast<float>(config.rope.attention_factor)),
      frequencies_(rope_frequencies(config)),
      long_frequencies_(rope_frequencies(config, original_context_ + 1)),
      cosines_(frequencies_.size() * static_cast<size_t>(max_tokens)),
      sines_(cosines_.size()) {}

void Rotary::prepare(int64_t position, int64_t tokens, int64_t length) {
  const std::vector<float>& frequencies = length > original_context_ ? long_frequencies_ : frequencies_;
  const size_t half = frequencies_.size();
  for (size_t token = 0; token < static_cast<size_t>(tokens); ++token)
    for (size_t i = 0; i < half; ++i) {
      // The product is rounded to float32, as transformers does; it matters at large positions.
      const float angle = static_cast<float>(position + static_cast<int64_t>(token)) * frequencies[i];
      cosines_[token * half + i] = std::cos(angle) * scale_;
      sines_[token * half + i] = std::sin(angle) * scale_;
    }
}

void Rotary::rotate(int64_t token, float* head) const {
  const size_t half = frequencies_.size();
  const float* cosines = cosines_.data() + static_cast<size_t>(token) * half;
  const float* sines = sines_.data() + static_cast<size_t>(token) * half;
  for (size_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace retort
