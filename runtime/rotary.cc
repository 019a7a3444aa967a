#include "runtime/rotary.h"

#include <cmath>

namespace retort {

Rotary::Rotary(const ModelConfig& config, int64_t max_tokens)
    : frequencies_(rope_frequencies(config)),
      cosines_(frequencies_.size() * static_cast<size_t>(max_tokens)),
      sines_(cosines_.size()) {}

void Rotary::prepare(int64_t position, int64_t tokens) {
  const size_t half = frequencies_.size();
  for (size_t token = 0; token < static_cast<size_t>(tokens); ++token)
    for (size_t i = 0; i < half; ++i) {
      // The product is rounded to float32, as transformers does; it matters at large positions.
      const float angle = static_cast<float>(position + static_cast<int64_t>(token)) * frequencies_[i];
      cosines_[token * half + i] = std::cos(angle);
      sines_[token * half + i] = std::sin(angle);
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
