// tokenizer.model
#include "core/base/error.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

std::unique_ptr<Tokenizer> tokenizer_from_sentencepiece(std::span<const std::byte>, std::string_view,
                                                        std::string_view label) {
  fail("tokenizer", label, "SentencePiece models are not read yet");
}

std::unique_ptr<Tokenizer> tokenizer_from_vocabulary(Vocabulary, std::string_view label) {
  fail("tokenizer", label, "vocabularies of GGUF files are not read yet");
}

}  // namespace retort
