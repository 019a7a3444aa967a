// Text in, text out: tokenizer, engine and sampler together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"
#include "runtime/sampler.h"

namespace retort {

struct GenerationOptions {
  int64_t max_new_tokens = 128;
  SamplingOptions sampling = {};
  std::vector<std::string> stops = {};  // the text ends before the first of these
};

struct Generation {
  std::string text;  // the continuation: leading blanks kept, special tokens left out
  std::vector<int32_t> ids;
  int64_t prompt_tokens = 0;
  std::string stopped_by;  // "end" (a token of the model), "text", "length"
};

// Ends at the model's end-of-sequence tokens, at a stop text or after max_new_tokens. Beyond the model's context
// length it goes on, as transformers does, and says so in a message.
Generation generate_text(const ModelSource& source, Engine& engine, std::string_view prompt,
                         const GenerationOptions& options, Context& context);

}  // namespace retort
