// Byte pair encoding as Hugging Face tokenizers define it (models/bpe): words to ids by ranked merges.
// Sennrich, Haddow, Birch: Neural Machine Translation of Rare Words with Subword Units, section 3.2.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/json.h"
#include "core/tokenizer/flat_map.h"
#include "core/tokenizer/merging.h"

namespace retort {

// Lets a map of strings be searched by string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using TokenIds = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

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
    struct Remembered {
      uint32_t begin, count;  // in arena_
    };
    const Bpe& model_;
    std::unordered_map<std::string, Remembered, StringHash, std::equal_to<>> words_;
    std::vector<int32_t> arena_;
    std::vector<MergeSymbol> symbols_;
    MergeQueue queue_;
  };

  const TokenIds& vocabulary() const { return spec_.vocabulary; }
  const BpeSpec& spec() const { return spec_; }

 private:
  struct Unknown {
    size_t begin = 0, length = 0;  // length 0: none pending
  };
  void symbols_of(std::string_view word, std::vector<MergeSymbol>& symbols) const;
  bool append_bytes(std::string_view character, size_t begin, std::vector<MergeSymbol>& symbols) const;

  BpeSpec spec_;
  std::optional<int32_t> unknown_id_;
  std::vector<int32_t> byte_ids_;  // 256 of them with byte_fallback; -1: not in the vocabulary
  FlatMap<Merge> merges_;          // by left id << 32 | right id
};

}  // namespace retort
