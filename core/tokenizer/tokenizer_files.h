// From the vocabulary of a GGUF file to the files of Hugging Face.
#pragma once

#include <optional>
#include <string>

#include "core/tokenizer/tokenizer.h"

namespace retort {

// The texts of tokenizer.json and tokenizer_config.json.
struct TokenizerFiles {
  std::string tokenizer, config;
};

// Files that give the same ids. None for a vocabulary that is not byte-level, or is cut in a way that is not known.
std::optional<TokenizerFiles> tokenizer_files_of(const Vocabulary& vocabulary);

}  // namespace retort
