// Stands in until core/tokenizer is built: reading weights does not wait for it.
#include "core/base/error.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

std::unique_ptr<Tokenizer> tokenizer_from_json(std::string_view, std::string_view, std::string_view label) {
  fail("tokenizer", label, "this program was built without tokenizers");
}
std::unique_ptr<Tokenizer> tokenizer_from_sentencepiece(std::span<const std::byte>, std::string_view,
                                                        std::string_view label) {
  fail("tokenizer", label, "this program was built without tokenizers");
}
std::unique_ptr<Tokenizer> tokenizer_from_vocabulary(Vocabulary, std::string_view label) {
  fail("tokenizer", label, "this program was built without tokenizers");
}

}  // namespace retort
