// Text to token ids and back, equal to Hugging Face tokenizers for every BPE tokenizer.json, and for
// tokenizer.model (SentencePiece BPE) and the vocabularies inside GGUF files.
// Goals: equality with the reference, time linear in the text. Non-goals: WordPiece, Unigram, training.
// Texts are UTF-8. What is not valid UTF-8 is read as U+FFFD, one for each maximal part of a sequence, as Python's
// bytes.decode(errors="replace") does; decoding gives valid UTF-8 in the same way.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace retort {

enum class TokenType : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };  // GGUF's numbers

struct VocabularyEntry {
  std::string text;  // as stored: byte-level alphabet or SentencePiece's U+2581
  float score = 0;
  TokenType type = TokenType::kNormal;
  bool strip_left = false, strip_right = false;  // blanks beside a token that is found by its text belong to it

  bool strips() const { return strip_left || strip_right; }
};

// What a GGUF file says of a tokenizer, and what is needed to write one.
struct Vocabulary {
  enum class Kind : uint8_t { kByteLevelBpe, kSentencePiece };
  Kind kind = Kind::kByteLevelBpe;
  std::string pre;  // GGUF name of the pre-tokenizer ("llama-bpe", "qwen2", "gpt-2", ...); empty: none matches
  std::vector<VocabularyEntry> tokens;
  std::vector<std::string> merges;  // "left right"
  bool add_bos = false, add_eos = false, add_space_prefix = true;
  std::optional<int32_t> bos, eos, unknown, padding;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // With `special`: BOS and the like added as the tokenizer says, and special tokens in the text recognised.
  // Thread-safe, like every const member.
  virtual std::vector<int32_t> encode(std::string_view text, bool special = true) const = 0;
  // Ids that the tokenizer does not know are passed over.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special = false) const = 0;
  virtual int64_t size() const = 0;  // ids are below this
  virtual const Vocabulary& vocabulary() const = 0;
};

// From the texts of tokenizer.json and tokenizer_config.json (empty: there is none). A tokenizer of another type
// than BPE, and a component that is not known, are refused by name.
std::unique_ptr<Tokenizer> tokenizer_from_json(std::string_view tokenizer, std::string_view config,
                                               std::string_view label);
// From the bytes of a SentencePiece model of type BPE, and tokenizer_config.json as above.
std::unique_ptr<Tokenizer> tokenizer_from_sentencepiece(std::span<const std::byte> model, std::string_view config,
                                                        std::string_view label);
// From a GGUF vocabulary; an unknown `pre` is refused by name.
std::unique_ptr<Tokenizer> tokenizer_from_vocabulary(Vocabulary vocabulary, std::string_view label);

}  // namespace retort
