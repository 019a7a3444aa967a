// Between tokenizers and the vocabularies that GGUF files hold.
#pragma once

#include "core/base/json.h"
#include "core/tokenizer/pipeline.h"
#include "core/tokenizer/special_tokens.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

// What a GGUF file says of the tokenizer that `json` (a tokenizer.json) describes.
Vocabulary describe_for_gguf(const SortedJson& json, const Pipeline& pipeline, const TokenizerConfig& config);

}  // namespace retort
