#include "core/tokenizer/added_tokens.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/tokenizer/unicode.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

// The first byte of the character that ends before `end`.
size_t previous_character(std::string_view text, size_t end) {
  do --end;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool word_ends_at(std::string_view text, size_t end) {
  return end > 0 && is_word(decode_utf8(text, previous_character(text, end)).value);
}

bool word_starts_at(std::string_view text, size_t begin) {
  return begin < text.size() && is_word(decode_utf8(text, begin).value);
}

size_t blanks_begin(std::string_view text, size_t end, size_t least) {
  while (end > least && is_whitespace(decode_utf8(text, previous_character(text, end)).value))
    end = previous_character(text, end);
  return end;
}

size_t blanks_end(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    const CodePoint c = decode_utf8(text, begin);
    if (!is_whitespace(c.value)) break;
    begin += c.length;
  }
  return begin;
}

}  // namespace

AddedToken parse_added_token(const SortedJson& json, std::string_view label) {
  AddedToken token;
  token.content = json_required<std::string>(json, "content", label);
  token.special = json_value(json, "special", false, label);
  token.single_word = json_value(json, "single_word", false, label);
  token.strip_left = json_value(json, "lstrip", false, label);
  token.strip_right = json_value(json, "rstrip", false, label);
  token.normalized = json_value(json, "normalized", !token.special, label);
  return token;
}

void TokenFinder::add(std::string_view pattern, size_t value) {
  if (!pattern.empty()) begins_[static_cast<uint8_t>(pattern.front())] = true;
  uint32_t node = 0;
  for (const char c : pattern) {
    const uint64_t key = (static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(c);
    if (const uint32_t* next = edges_.find(key)) {
      node = *next;
      continue;
    }
    node = static_cast<uint32_t>(values_.size());
    edges_.set(key, node);
    values_.push_back(-1);
  }
  values_[node] = static_cast<int64_t>(value);
  ++count_;
}

std::optional<TokenFinder::Match> TokenFinder::match_at(std::string_view text, size_t begin) const {
  if (!begins_[static_cast<uint8_t>(text[begin])]) return std::nullopt;
  std::optional<Match> longest;
  uint32_t node = 0;
  for (size_t at = begin; at < text.size(); ++at) {
    const uint32_t* next = edges_.find((static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(text[at]));
    if (!next) break;
    node = *next;
    if (values_[node] >= 0) longest = Match{begin, at + 1, static_cast<size_t>(values_[node])};
  }
  return longest;
}

std::optional<TokenFinder::Match> TokenFinder::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin)
    if (const auto match = match_at(text, begin)) return match;
  return std::nullopt;
}

void AddedTokens::add(AddedToken token, const TokenIds& vocabulary) {
  if (token.content.empty()) return;
  if (next_id_ < 0) next_id_ = static_cast<int64_t>(vocabulary.size());
  const auto [entry, fresh] = index_.emplace(token.content, static_cast<int32_t>(tokens_.size()));
  if (!fresh) {
    token.id = tokens_[entry->second].id;
    tokens_[entry->second] = std::move(token);
    return;
  }
  if (const auto known = vocabulary.find(token.content); known != vocabulary.end()) token.id = known->second;
  if (token.id < 0) token.id = static_cast<int32_t>(next_id_++);
  tokens_.push_back(std::move(token));
}

void AddedTokens::add_special(AddedToken token, const TokenIds& vocabulary) {
  token.special = true;
  const auto entry = index_.find(token.content);
  if (entry == index_.end())
    add(std::move(token), vocabulary);
  else
    tokens_[entry->second].special = true;
}

void AddedTokens::finish(const Normalizer* normalizer) {
  for (const AddedToken& token : tokens_) {
    NormalizedText form{token.content, true};
    if (normalizer && token.normalized) normalizer->normalize(form);
    (token.normalized ? normalized_ : raw_).add(form.text, forms_.size());
    forms_.push_back(std::move(form.text));
  }
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto entry = index_.find(content);
  return entry == index_.end() ? nullptr : &tokens_[entry->second];
}

void AddedTokens::split(const TokenFinder& finder, std::string_view text, bool special, const Visitor& visit) const {
  size_t done = 0;
  for (size_t from = 0; !finder.empty();) {
    const auto match = finder.find(text, from);
    if (!match) break;
    from = match->end;
    const AddedToken& token = tokens_[match->value];
    if (token.special && !special) continue;
    if (token.single_word && (word_ends_at(text, match->begin) || word_starts_at(text, match->end))) continue;
    const size_t begin = token.strip_left ? blanks_begin(text, match->begin, done) : std::max(match->begin, done);
    const size_t end = token.strip_right ? blanks_end(text, match->end) : match->end;
    if (done < begin) visit(-1, done, begin);
    visit(token.id, begin, end);
    done = end;
  }
  if (done < text.size()) visit(-1, done, text.size());
}

}  // namespace retort
