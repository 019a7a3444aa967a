// Tokens that stand beside the model's vocabulary and are found in the text before anything else: special tokens
// and other added ones (tokenizers, added_vocabulary.rs).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/json.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/components.h"
#include "core/tokenizer/flat_map.h"

namespace retort {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;                      // only where no word character touches it
  bool strip_left = false, strip_right = false;  // blanks around it belong to it
  bool normalized = false;                       // looked for in the normalized text, as its own normalized form
  bool special = false;
};

AddedToken parse_added_token(const SortedJson& json, std::string_view label);

// Finds the tokens of a set in a text: leftmost first, the longest of those that begin there.
class TokenFinder {
 public:
  void add(std::string_view pattern, size_t value);
  bool empty() const { return count_ == 0; }
  struct Match {
    size_t begin, end, value;
  };
  // The longest match that begins at byte `begin`.
  std::optional<Match> match_at(std::string_view text, size_t begin) const;
  // The first match at or after `from`.
  std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  std::array<bool, 256> begins_{};   // by first byte: whether any token begins with it
  FlatMap<uint32_t> edges_;          // node << 8 | byte -> node
  std::vector<int64_t> values_{-1};  // by node; -1: no token ends here
  size_t count_ = 0;
};

class AddedTokens {
 public:
  // Adds in order, as the reference does: a token that `vocabulary` has gets its id from there, others without an id
  // the next free one. A token already added is replaced.
  void add(AddedToken token, const TokenIds& vocabulary);
  // Makes sure that `token` is there and special; the flags of one already added stay.
  void add_special(AddedToken token, const TokenIds& vocabulary);
  // Call once, after the last add.
  void finish(const Normalizer* normalizer);

  // Called with consecutive stretches of the text: a token's id, or -1 and the text between.
  using Visitor = std::function<void(int32_t id, size_t begin, size_t end)>;
  // Tokens that are looked for in the text as it is, or in the normalized text. Without `special`, special tokens
  // are text like any other.
  void split_raw(std::string_view text, bool special, const Visitor& visit) const { split(raw_, text, special, visit); }
  void split_normalized(std::string_view text, bool special, const Visitor& visit) const {
    split(normalized_, text, special, visit);
  }

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // What decoders see of a token: its normalized form.
  const std::string& decoded_form(size_t index) const { return forms_[index]; }
  const AddedToken* find(std::string_view content) const;

 private:
  void split(const TokenFinder& finder, std::string_view text, bool special, const Visitor& visit) const;

  std::vector<AddedToken> tokens_;
  std::vector<std::string> forms_;
  TokenIds index_;  // content -> index in tokens_
  TokenFinder raw_, normalized_;
  int64_t next_id_ = -1;
};

}  // namespace retort
