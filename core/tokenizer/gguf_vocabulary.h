// Between the tokenizers of Hugging Face and the vocabularies that GGUF files hold.
#pragma once

#include "core/base/json.h"
#include "core/tokenizer/pipeline.h"
#include "core/tokenizer/special_tokens.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

struct GgufPreTokenizer;

// What a GGUF file says of the tokenizer that `json` (a tokenizer.json) describes. `pre` stays empty when GGUF cannot
// say it: no name for its way of cutting text, a normalizer that changes text (NFC is let pass: llama.cpp leaves it
// out for the models that have it), merges that no scores can order.
Vocabulary describe_for_gguf(const SortedJson& json, const Pipeline& pipeline, const TokenizerConfig& config);

// A Split by each pattern, then ByteLevel: what tokenizer.json files of these models say.
SortedJson pre_tokenizer_json(const GgufPreTokenizer& row);

// GGUF has no place for blanks that belong to tokens. llama.cpp gives those behind most tokens to them where
// general.name has "phi-3" or "phi3" in it (llama-vocab.cpp, llama_vocab::impl::load).
bool names_phi3(std::string_view general_name);
bool strips_as_phi3(const Vocabulary& vocabulary);
void strip_as_phi3(Vocabulary& vocabulary);

}  // namespace retort
