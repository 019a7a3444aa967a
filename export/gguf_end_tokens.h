// A model has any number of tokens that end a generation, a GGUF file three: the end of text, of a turn and of a
// message.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/arch/model_config.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

struct GgufEndTokens {
  std::optional<int64_t> eos, eot, eom;
  std::vector<int64_t> unsaid;  // further ones, for which there is no key and no text that llama.cpp knows
};
// The tokenizer's own end of text goes first. A token that llama.cpp takes for the end of a turn or of a message keeps
// that place; where the vocabulary has none, the place is free for another.
GgufEndTokens gguf_end_tokens(const ModelConfig& config, const Vocabulary& vocabulary);

// Whether llama.cpp stops at a token of this text without being told.
bool llama_cpp_stops_at(std::string_view text);
// The text of a token; empty: there is no such token.
std::string_view text_of_token(const Vocabulary& vocabulary, int64_t id);

}  // namespace retort
