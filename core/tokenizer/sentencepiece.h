// SentencePiece's BPE: pieces merged by their scores (google/sentencepiece, bpe_model.cc), for tokenizer.model files
// and for the "llama" vocabularies of GGUF files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/tokenizer.h"

namespace retort {

struct SentencePieceSpec {
  Vocabulary vocabulary;  // add_bos and add_eos say what encode() adds
  bool add_dummy_prefix = true;
  // As llama.cpp has it: the dummy prefix also stands after special tokens, and user-defined pieces are like these, but
  // found in every text.
  bool prefix_after_special = false;
  bool remove_extra_whitespaces = false;  // runs of blanks become one, those at the ends none
  bool escape_whitespaces = true;         // blanks become U+2581
  bool whitespace_as_suffix = false;      // the dummy prefix stands at the end
  bool byte_fallback = false;
  std::string charsmap;  // SentencePiece's compiled normalization rules; empty: identity
  std::string unknown_surface = " \xE2\x81\x87 ";
};

// The protobuf message ModelProto. Checked: types, sizes, ids; another model type than BPE is refused.
SentencePieceSpec parse_sentencepiece_model(std::span<const std::byte> model, std::string_view label);
// That, with what tokenizer_config.json says of BOS and EOS. Where it is silent, as LlamaTokenizer has it: BOS, no EOS.
SentencePieceSpec sentencepiece_spec(std::span<const std::byte> model, std::string_view config, std::string_view label);
// A vocabulary of GGUF as llama.cpp has it: blanks are kept, the blank before the text is also put after special and
// user-defined tokens.
SentencePieceSpec spec_of_pieces(Vocabulary vocabulary);

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceSpec spec, std::string_view label);

// The compiled normalization rules: a double array (Aoe 1989; darts-clone's layout of units) from prefixes to
// replacements.
class CharacterMap {
 public:
  CharacterMap(std::string blob, std::string_view label);
  struct Rule {
    size_t length;  // bytes of the text that it replaces; 0: no rule begins the text
    std::string_view replacement;
  };
  Rule longest(std::string_view text) const;

 private:
  uint32_t unit(size_t index) const;

  std::string blob_;
  size_t units_ = 0;  // of the double array, 4 bytes each, after the 4 bytes of its size
  std::string_view replacements_;
};

}  // namespace retort
