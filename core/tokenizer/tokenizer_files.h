// From the vocabulary of a GGUF file, and from a tokenizer.model, to the files of Hugging Face.
#pragma once

#include <string>

#include "core/tokenizer/tokenizer.h"

namespace retort {

struct SentencePieceSpec;

// The texts of tokenizer.json and tokenizer_config.json.
struct TokenizerFiles {
  std::string tokenizer, config;
};

// Why no files give the ids that the vocabulary gives; empty: there are such files. `vocabulary` is one that
// tokenizer_from_vocabulary takes.
std::string refuses_tokenizer_files(const Vocabulary& vocabulary);
std::string refuses_tokenizer_files(const SentencePieceSpec& spec);
// Files that give the same ids. For a vocabulary that is not refused.
TokenizerFiles tokenizer_files_of(const Vocabulary& vocabulary);
// ... but for a text that begins with a user-defined piece, before which they put no blank.
TokenizerFiles tokenizer_files_of(const SentencePieceSpec& spec);

}  // namespace retort
