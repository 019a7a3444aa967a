// What teacher, student and text must have in common before a run starts.
#pragma once

#include <cstdint>
#include <vector>

#include "core/checkpoint/model_source.h"
#include "distill/distill.h"

namespace retort {

// Token ids of the text under the tokenizer that both models share, and the number of ids over which their
// distributions are compared: the vocabulary, or where one of them is padded beyond the other, the tokenizer's own.
// Tokenizers that differ are an Error: the same id would mean different tokens.
struct TrainingText {
  std::vector<int32_t> ids;
  int64_t vocabulary = 0;
};
TrainingText read_training_text(const ModelSource& teacher, const ModelSource& student, const std::string& path);

// The window length asked for, or min(512, the shorter context); one longer than a context is refused.
int64_t window_length(const ModelConfig& teacher, const ModelConfig& student, int64_t asked);

// Everything that the bytes of the result depend on.
Json run_identity(const ModelSource& teacher, const ModelSource& student, const DistillOptions& options,
                  const Context& context);

}  // namespace retort
