// From the vocabulary of a GGUF file to the files of Hugging Face.
#pragma once

#include <string>

#include "core/tokenizer/tokenizer.h"

namespace retort {

// The texts of tokenizer.json and tokenizer_config.json.
struct TokenizerFiles {
  std::string tokenizer, config;
};

// Why no files give the ids that the vocabulary gives; empty: there are such files. `vocabulary` is one that
// tokenizer_from_vocabulary takes.
std::string refuses_tokenizer_files(const Vocabulary& vocabulary);
// Files that give the same ids. For a vocabulary that is not refused.
TokenizerFiles tokenizer_files_of(const Vocabulary& vocabulary);

}  // namespace retort
