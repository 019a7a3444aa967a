#include "tests/runtime/engine_support.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace retort::testing {

std::vector<float> logits_of(Engine& engine, std::span<const int32_t> tokens, size_t piece) {
  const auto vocabulary = static_cast<size_t>(engine.config().vocab_size);
  const auto session = engine.new_session(static_cast<int64_t>(tokens.size()));
  std::vector<float> logits(tokens.size() * vocabulary);
  for (size_t first = 0; first < tokens.size(); first += piece) {
    const size_t count = std::min(piece, tokens.size() - first);
    engine.forward(*session, tokens.subspan(first, count), static_cast<int64_t>(count),
                   std::span(logits).subspan(first * vocabulary, count * vocabulary));
  }
  return logits;
}

std::vector<uint32_t> bits_of(std::span<const float> values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size_bytes());
  return bits;
}

double kl_mean(std::span<const float> reference, std::span<const float> logits, size_t vocabulary) {
  double total = 0;
  for (size_t row = 0; row < logits.size(); row += vocabulary) {
    const auto log_sum = [&](std::span<const float> values) {
      double sum = 0;
      for (size_t i = row; i < row + vocabulary; ++i) sum += std::exp(double{values[i]});
      return std::log(sum);
    };
    const double p_sum = log_sum(reference), q_sum = log_sum(logits);
    for (size_t i = row; i < row + vocabulary; ++i) {
      const double p = reference[i] - p_sum, q = logits[i] - q_sum;
      total += std::exp(p) * (p - q);
    }
  }
  return total / (static_cast<double>(logits.size()) / static_cast<double>(vocabulary));
}

}  // namespace retort::testing
