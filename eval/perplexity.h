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

  // Rows first_row() to window - 2 of each window are scored, each by the token that follows it.
  int64_t first_row() const { return kind == Kind::kWindows ? 0 : window / 2; }
  int64_t scored() const { return window - 1 - first_row(); }
};
Convention parse_convention(std::string_view name);
std::string name_of(const Convention& convention);
// windows-512, or the model's context length where that is shorter.
Convention default_convention(const ModelConfig& config);

struct EvalResult {
  int64_t tokens = 0;  // scored
  double perplexity = 0;
  struct Divergence {
    double kl_mean = 0, kl_p99 = 0, kl_max = 0;  // nats per token, KL(reference || model); p99 interpolated
    double top1_agreement = 0;                   // share of positions with the same most probable token
  };
  std::optional<Divergence> divergence;  // with a reference
  double seconds = 0;
};

// `ids`: a text under the tokenizer's own rules; an incomplete last window is dropped, fewer tokens than one
// window are an Error. `bos`: what replaces the first token of each window in llama.cpp-N, where the tokenizer
// adds one. The result does not depend on the number of threads.
EvalResult evaluate(LogitsSource& model, LogitsSource* reference, std::span<const int32_t> ids,
                    const Convention& convention, std::optional<int32_t> bos, Context& context);

}  // namespace retort
