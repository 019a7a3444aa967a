// Perplexity in named conventions, and the divergence from a reference over the same positions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/logits_source.h"

namespace retort {

// How a text is cut into windows and what is scored: "windows-N" or "llama.cpp-N".
struct Convention {
  enum class Kind : uint8_t { kWindows, kLlamaCpp } kind = Kind::kWindows;
  int64_t window = 512;
};
Convention parse_convention(std::string_view name);
std::string name_of(const Convention& convention);
// windows-512, or the model's context length where that is shorter.
Convention default_convention(const ModelConfig& config);

struct EvalResult {
  int64_t tokens = 0;  // scored
  double perplexity = 0;
  struct Divergence {
    double kl_mean = 0, kl_p99 = 0, kl_max = 0;  // nats per token, KL(reference || model)
    double top1_agreement = 0;
  };
  std::optional<Divergence> divergence;  // with a reference
  double seconds = 0;
};

// Token ids of `text` under the tokenizer's own rules, cut to `max_tokens` (0: all).
// Fewer tokens than one window is an Error.
EvalResult evaluate(LogitsSource& model, LogitsSource* reference, std::span<const int32_t> ids,
                    const Convention& convention, std::optional<int32_t> bos, Context& context);

}  // namespace retort
