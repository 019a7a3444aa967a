// Rotary position embedding (arXiv:2104.09864) in the half-split order of Hugging Face: dimension i turns with
// dimension i + head_dim / 2.
#pragma once

#include <cstdint>
#include <vector>

#include "core/arch/model_config.h"

namespace retort {

class Rotary {
 public:
  Rotary(const ModelConfig& config, int64_t max_tokens);
  // Angles of the positions [position, position + tokens), tokens <= max_tokens, in a pass that ends with a sequence of
  // `length` tokens.
  void prepare(int64_t position, int64_t tokens, int64_t length);
  // Turns one head of the token with index `token` among those prepared.
  void rotate(int64_t token, float* head) const;

 private:
  int64_t original_context_;
  float scale_;                                        // of cosines and sines
  std::vector<float> frequencies_, long_frequencies_;  // of sequences within the original context, and of others
  std::vector<float> cosines_, sines_;
};

}  // namespace retort
