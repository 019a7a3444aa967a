// How positions turn queries and keys: the settings of config.json under rope_parameters (transformers 5), or
// rope_theta and rope_scaling (transformers 4).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/json.h"

namespace retort {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn, kLongRope, kFactors };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;                                   // linear, llama3, yarn
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  int64_t original_context = 0;                          // llama3, yarn, longrope
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn: turns over the original context that bound the ramp
  bool truncate = true;                                  // yarn: the ramp begins and ends at whole dimensions
  double attention_factor = 1.0;                         // yarn, longrope: cosines and sines are multiplied by it
  // What each frequency is divided by. longrope: in sequences of at most original_context tokens, and in longer ones.
  // factors: GGUF files hold llama3's scaling in this form only, so such a model's config says "rope_type": "factors",
  // which transformers does not know.
  std::vector<double> factors, long_factors;
};

// The attention factor that the authors of YaRN (arXiv:2309.00071, 3.4) advise.
double yarn_attention_factor(double factor, double mscale = 1.0);

// `context` is max_position_embeddings. Types that are not known and numbers out of range are Errors.
RopeConfig parse_rope(const Json& config, int64_t head_dim, int64_t context, std::string_view label);

}  // namespace retort
