#include "core/tokenizer/bpe.h"

#include <algorithm>
#include <cstdio>

#include "core/base/error.h"
#include "core/tokenizer/utf8.h"
#include "core/tokenizer/word_boundaries.h"

namespace retort {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

TokenIds parse_vocabulary(const SortedJson& json, std::string_view label) {
  const auto vocabulary = json.find("vocab");
  if (vocabulary == json.end() || !vocabulary->is_object()) fail("tokenizer", label, "the model has no vocabulary");
  TokenIds ids;
  ids.reserve(vocabulary->size());
  for (const auto& [token, id] : vocabulary->items()) {
    if (!id.is_number_unsigned() || id.template get<uint64_t>() >= static_cast<uint64_t>(kMostTokens))
      fail("tokenizer", label, "the token '" + token + "' has the id " + id.dump() + ", which is out of range");
    ids.emplace(token, id.template get<int32_t>());
  }
  return ids;
}

// "left right" or ["left", "right"]
std::pair<std::string, std::string> parse_merge(const SortedJson& json, std::string_view label) {
  if (json.is_array() && json.size() == 2 && json[0].is_string() && json[1].is_string())
    return {json[0].get<std::string>(), json[1].get<std::string>()};
  const std::string text = json.is_string() ? json.get<std::string>() : std::string();
  const size_t blank = text.find(' ');
  if (blank == std::string::npos || text.find(' ', blank + 1) != std::string::npos)
    fail("tokenizer", label,
         "the merge " + json.dump(-1, ' ', false, SortedJson::error_handler_t::replace).substr(0, 80) +
             " is not a pair");
  return {text.substr(0, blank), text.substr(blank + 1)};
}

}  // namespace

BpeSpec parse_bpe(const SortedJson& json, std::string_view label) {
  const auto type = json_value<std::string>(json, "type", json.contains("merges") ? "BPE" : "unnamed", label);
  if (type != "BPE") fail("tokenizer", label, "a tokenizer of type " + type + " is not supported", "Only BPE is");
  if (json_value<double>(json, "dropout", 0, label) != 0)
    fail("tokenizer", label, "BPE dropout makes ids random", "Set \"dropout\" to null");
  BpeSpec spec;
  spec.vocabulary = parse_vocabulary(json, label);
  for (const SortedJson& merge : json_required<SortedJson>(json, "merges", label)) {
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    spec.merges.push_back(parse_merge(merge, label));
  }
  if (const auto unknown = json_value<std::string>(json, "unk_token", "", label); !unknown.empty())
    spec.unknown = unknown;
  spec.prefix = json_value<std::string>(json, "continuing_subword_prefix", "", label);
  spec.suffix = json_value<std::string>(json, "end_of_word_suffix", "", label);
  spec.fuse_unknown = json_value(json, "fuse_unk", false, label);
  spec.byte_fallback = json_value(json, "byte_fallback", false, label);
  spec.ignore_merges = json_value(json, "ignore_merges", false, label);
  return spec;
}

Bpe::Bpe(BpeSpec spec, std::string_view label) : spec_(std::move(spec)) {
  const auto id_of = [&](const std::string& token) {
    const auto found = spec_.vocabulary.find(token);
    if (found == spec_.vocabulary.end())
      fail("tokenizer", label, "a merge uses '" + token + "', which is not in the vocabulary");
    return found->second;
  };
  uint32_t rank = 0;
  for (const auto& [left, right] : spec_.merges) {
    if (right.size() < spec_.prefix.size())
      fail("tokenizer", label, "the merge '" + left + " " + right + "' lacks the subword prefix");
    merges_.set(pair_key(id_of(left), id_of(right)), {rank++, id_of(left + right.substr(spec_.prefix.size()))});
  }
  if (spec_.unknown) {
    const auto found = spec_.vocabulary.find(*spec_.unknown);
    if (found != spec_.vocabulary.end()) unknown_id_ = found->second;
  }
  for (int byte = 0; spec_.byte_fallback && byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    const auto found = spec_.vocabulary.find(std::string_view(name));
    byte_ids_.push_back(found == spec_.vocabulary.end() ? -1 : found->second);
  }
  words_apart_ = keeps_words_apart();
}

bool Bpe::append_bytes(std::string_view character, size_t begin, std::vector<MergeSymbol>& symbols) const {
  if (!spec_.byte_fallback) return false;
  for (const char c : character)
    if (byte_ids_[static_cast<uint8_t>(c)] < 0) return false;
  for (const char c : character) append_symbol(symbols, byte_ids_[static_cast<uint8_t>(c)], begin++, 1);
  return true;
}

// The characters of a word as symbols. Those that the vocabulary lacks become bytes, else the unknown token (one for
// a run of them with fuse_unknown), else nothing. A pending unknown token is written before the next known symbol,
// not before bytes: the reference does so.
void Bpe::symbols_of(std::string_view word, std::vector<MergeSymbol>& symbols) const {
  symbols.clear();
  Unknown pending;
  const auto flush = [&] {
    if (pending.length > 0) append_symbol(symbols, *unknown_id_, pending.begin, pending.length);
    pending = {};
  };
  std::string decorated;
  for (size_t at = 0; at < word.size();) {
    const size_t length = decode_utf8(word, at).length;
    std::string_view character = word.substr(at, length);
    const bool prefixed = at > 0 && !spec_.prefix.empty(),
               suffixed = at + length == word.size() && !spec_.suffix.empty();
    if (prefixed || suffixed) {
      decorated.assign(prefixed ? spec_.prefix : "").append(character).append(suffixed ? spec_.suffix : "");
      character = decorated;
    }
    if (const auto found = spec_.vocabulary.find(character); found != spec_.vocabulary.end()) {
      flush();
      append_symbol(symbols, found->second, at, length);
    } else if (!append_bytes(character, at, symbols) && spec_.unknown) {
      if (!unknown_id_) fail("tokenizer", *spec_.unknown, "the unknown token is not in the vocabulary");
      if (!spec_.fuse_unknown) flush();
      if (pending.length == 0) pending.begin = at;
      pending.length += length;
    }
    at += length;
  }
  flush();
}

bool Bpe::keeps_words_apart() const {
  if (spec_.ignore_merges || !spec_.prefix.empty() || !spec_.suffix.empty()) return false;
  if (!spec_.vocabulary.contains(kSpaceMark)) return false;
  return std::none_of(spec_.merges.begin(), spec_.merges.end(),
                      [](const auto& merge) { return reaches_over_words(merge.first + merge.second); });
}

void Bpe::Session::encode(std::string_view piece, std::vector<int32_t>& ids) {
  while (model_.words_apart_ && !piece.empty()) {
    const size_t length = first_word_length(piece);
    encode_word(piece.substr(0, length), ids);
    piece.remove_prefix(length);
  }
  if (!piece.empty()) encode_word(piece, ids);
}

void Bpe::Session::encode_word(std::string_view word, std::vector<int32_t>& ids) {
  if (model_.spec_.ignore_merges) {
    const auto whole = model_.spec_.vocabulary.find(word);
    if (whole != model_.spec_.vocabulary.end()) return ids.push_back(whole->second);
  }
  if (cache_.append(word, ids)) return;
  model_.symbols_of(word, symbols_);
  merge_symbols(symbols_, queue_, [this](const MergeSymbol& left, const MergeSymbol& right) -> std::optional<Merge> {
    const Merge* merge = model_.merges_.find(pair_key(left.id, right.id));
    return merge ? std::optional(*merge) : std::nullopt;
  });
  const size_t first = ids.size();
  for (const MergeSymbol& symbol : symbols_)
    if (symbol.length > 0) ids.push_back(symbol.id);
  cache_.remember(word, ids, first);
}

}  // namespace retort
