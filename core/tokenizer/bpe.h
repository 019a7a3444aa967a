// Byte pair encoding as Hugging Face tokenizers define it (models/bpe): words to ids by ranked merges.
// Sennrich, Haddow, Birch: Neural Machine Translation of Rare Words with Subword Units, section 3.2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/json.h"
#include "core/tokenizer/flat_map.h"
#include "core/tokenizer/merging.h"
#include "core/tokenizer/word_cache.h"

namespace retort {

// Ids stay below this in everything we read; the largest vocabularies have 262 thousand tokens.
inline constexpr int64_t kMostTokens = 1 << 21;

struct BpeSpec {
  TokenIds vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::optional<std::string> unknown;
  std::string prefix;  // of every symbol but the first of a word
  std::string suffix;  // of the last symbol of a word
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
};

// The "model" of a tokenizer.json.
BpeSpec parse_bpe(const SortedJson& json, std::string_view label);

class Bpe {
 public:
  Bpe(BpeSpec spec, std::string_view label);

  // Scratch memory and remembered words of one caller; not thread-safe.
  class Session {
   public:
    explicit Session(const Bpe& model) : model_(model) {}
    void encode(std::string_view word, std::vector<int32_t>& ids);

   private:
    void encode_word(std::string_view word, std::vector<int32_t>& ids);

    const Bpe& model_;
    WordCache cache_;
    std::vector<MergeSymbol> symbols_;
    MergeQueue queue_;
  };

  const TokenIds& vocabulary() const { return spec_.vocabulary; }
  const BpeSpec& spec() const { return spec_; }

 private:
  struct Unknown {
    size_t begin = 0, length = 0;  // length 0: none pending
  };
  bool keeps_words_apart() const;
  void symbols_of(std::string_view word, std::vector<MergeSymbol>& symbols) const;
  bool append_bytes(std::string_view character, size_t begin, std::vector<MergeSymbol>& symbols) const;

  BpeSpec spec_;
  std::optional<int32_t> unknown_id_;
  std::vector<int32_t> byte_ids_;  // 256 of them with byte_fallback; -1: not in the vocabulary
  FlatMap<Merge> merges_;          // by left id << 32 | right id
  bool words_apart_ = false;       // no merge reaches over the start of a word: see word_boundaries.h
};

}  // namespace retort
