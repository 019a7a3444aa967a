#include "core/tokenizer/sentencepiece.h"

#include <algorithm>
#include <cstdio>

#include "core/base/error.h"
#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/merging.h"
#include "core/tokenizer/special_tokens.h"
#include "core/tokenizer/utf8.h"
#include "core/tokenizer/word_boundaries.h"
#include "core/tokenizer/word_cache.h"

namespace retort {
namespace {

constexpr int32_t kFrozen = -2;  // id of a symbol that takes no part in merging: a user-defined piece

// The byte that a piece such as "<0x0A>" stands for.
std::optional<uint8_t> byte_of_piece(const std::string& text) {
  unsigned value = 0;
  char end = 0;
  if (text.size() != 6 || std::sscanf(text.c_str(), "<0x%2X%c", &value, &end) != 2 || end != '>') return std::nullopt;
  return static_cast<uint8_t>(value);
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceSpec spec, std::string_view label) : spec_(std::move(spec)), bytes_(256, -1) {
    if (!spec_.charsmap.empty()) rules_.emplace(spec_.charsmap, label);
    const std::vector<VocabularyEntry>& tokens = spec_.vocabulary.tokens;
    for (size_t i = 0; i < tokens.size(); ++i) register_token(static_cast<int32_t>(i), tokens[i], label);
    special_.finish(nullptr);
    rank_by_score();
    if (spec_.byte_fallback && std::count(bytes_.begin(), bytes_.end(), -1) > 0)
      fail("tokenizer", label, "there are not 256 byte pieces for its byte fallback");
    words_apart_ = spec_.escape_whitespaces && std::none_of(tokens.begin(), tokens.end(), [](const VocabularyEntry& t) {
                     return reaches_over_words(t.text);
                   });
  }

  std::vector<int32_t> encode(std::string_view text, bool special) const override {
    std::string repaired;
    if (valid_utf8_prefix(text) != text.size()) text = repaired = replace_invalid_utf8(text);
    const Vocabulary& vocabulary = spec_.vocabulary;
    std::vector<int32_t> ids;
    if (special && vocabulary.add_bos && vocabulary.bos) ids.push_back(*vocabulary.bos);
    Session session{*this, {}, {}, {}, {}};
    special_.split_raw(text, special, [&](int32_t id, size_t begin, size_t end) {
      if (id >= 0) return ids.push_back(id);
      const bool prefixed = begin == 0 || spec_.prefix_after_special;
      session.encode(normalized(text.substr(begin, end - begin), prefixed), ids);
    });
    if (special && vocabulary.add_eos && vocabulary.eos) ids.push_back(*vocabulary.eos);
    return ids;
  }

  // As SentencePieceProcessor::Decode: runs of bytes become characters, the blank of the dummy prefix goes.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const override {
    std::string text, run;
    const auto flush = [&] {
      append_bytes(run, text);
      run.clear();
    };
    bool expects_prefix = true, prefix_seen = false;
    for (const int32_t id : ids) {
      if (id < 0 || id >= size()) continue;
      const VocabularyEntry& token = spec_.vocabulary.tokens[static_cast<size_t>(id)];
      if (token.type == TokenType::kByte) {
        run.push_back(static_cast<char>(byte_of_piece(token.text).value_or('?')));
        continue;
      }
      flush();
      if (prefix_seen || !text.empty()) expects_prefix = false;
      prefix_seen = append_piece(id, token, skip_special, expects_prefix, text);
    }
    flush();
    return text;
  }

  int64_t size() const override { return static_cast<int64_t>(spec_.vocabulary.tokens.size()); }
  const Vocabulary& vocabulary() const override { return spec_.vocabulary; }

 private:
  // Scratch memory of one call of encode().
  struct Session {
    const SentencePieceTokenizer& model;
    WordCache cache;
    std::vector<MergeSymbol> symbols;
    MergeQueue queue;
    std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>> parts;  // of unused pieces

    void encode(const std::string& text, std::vector<int32_t>& ids) {
      const size_t start = ids.size();
      std::string_view rest = text;
      while (!rest.empty()) {
        const std::string_view word = rest.substr(0, model.words_apart_ ? first_word_length(rest) : rest.size());
        const size_t first = ids.size();
        if (!cache.append(word, ids)) {
          encode_word(word, ids);
          cache.remember(word, ids, first);
        }
        rest.remove_prefix(word.size());
      }
      if (!model.spec_.byte_fallback) model.fuse_unknown(ids, start);
    }

    void encode_word(std::string_view word, std::vector<int32_t>& ids) {
      model.symbols_of(word, symbols);
      parts.clear();
      merge_symbols(symbols, queue, [&](const MergeSymbol& left, const MergeSymbol& right) {
        return model.merged(word, left, right, *this);
      });
      for (const MergeSymbol& symbol : symbols)
        if (symbol.length > 0) model.append_symbol_ids(word.substr(symbol.begin, symbol.length), *this, ids, 0);
    }
  };

  void register_token(int32_t id, const VocabularyEntry& token, std::string_view label) {
    const bool user_defined = token.type == TokenType::kUserDefined, apart = user_defined && spec_.prefix_after_special;
    const bool mergeable = token.type == TokenType::kNormal || token.type == TokenType::kUnused || user_defined;
    if (mergeable && !apart && !token.text.empty() && !pieces_.emplace(token.text, id).second)
      fail("tokenizer", label, "the piece '" + token.text + "' is there twice");
    if (user_defined && !apart && !token.text.empty()) {
      user_defined_.add(token.text, static_cast<size_t>(id));
      longest_user_defined_ = std::max(longest_user_defined_, token.text.size());
    }
    if (token.type == TokenType::kControl || token.type == TokenType::kUnknown || apart)
      special_.add({.content = token.text,
                    .id = id,
                    .strip_left = token.strip_left,
                    .strip_right = token.strip_right,
                    .special = !apart},
                   {});
    if (token.type != TokenType::kByte) return;
    const auto byte = byte_of_piece(token.text);
    if (!byte) fail("tokenizer", label, "the byte piece '" + token.text + "' is not of the form <0x0A>");
    bytes_[*byte] = id;
  }

  // Pieces in the order of their scores; equal scores share a rank, and then the leftmost pair goes first.
  void rank_by_score() {
    const std::vector<VocabularyEntry>& tokens = spec_.vocabulary.tokens;
    std::vector<float> scores;
    for (const VocabularyEntry& token : tokens) scores.push_back(token.score == token.score ? token.score : 0);
    std::vector<float> order = scores;
    std::sort(order.begin(), order.end(), std::greater<>());
    order.erase(std::unique(order.begin(), order.end()), order.end());
    for (const float score : scores)
      ranks_.push_back(
          static_cast<uint32_t>(std::lower_bound(order.begin(), order.end(), score, std::greater<>()) - order.begin()));
  }

  // What stands at the start of `text` after normalization, and how many bytes of the text it takes.
  std::pair<std::string_view, size_t> normalized_prefix(std::string_view text) const {
    if (const size_t length = user_defined_length(text); length > 0) return {text.substr(0, length), length};
    if (rules_)
      if (const CharacterMap::Rule rule = rules_->longest(text); rule.length > 0)
        return {rule.replacement, rule.length};
    const size_t length = decode_utf8(text, 0).length;
    return {text.substr(0, length), length};
  }

  // The longest user-defined piece that `text` begins with; 0: none.
  size_t user_defined_length(std::string_view text) const {
    if (longest_user_defined_ == 0) return 0;
    const auto match = user_defined_.match_at(text, 0);
    return match ? match->end : 0;
  }

  // sentencepiece, normalizer.cc, Normalizer::Normalize.
  std::string normalized(std::string_view text, bool prefixed) const {
    const bool squeeze = spec_.remove_extra_whitespaces;
    const std::string_view blank = spec_.escape_whitespaces ? kSpaceMark : " ";
    std::string out;
    for (bool leading = squeeze; leading && !text.empty();) {
      const auto [part, length] = normalized_prefix(text);
      leading = part == " ";
      if (leading) text.remove_prefix(length);
    }
    if (text.empty()) return out;
    out.reserve(text.size() + text.size() / 2);
    const bool dummy = spec_.add_dummy_prefix && prefixed;
    if (dummy && !spec_.whitespace_as_suffix) out += blank;
    for (bool after_blank = squeeze; !text.empty();) {
      auto [part, length] = normalized_prefix(text);
      while (after_blank && part.starts_with(' ')) part.remove_prefix(1);
      for (const char c : part) c == ' ' ? out += blank : out += c;
      if (squeeze && !part.empty()) after_blank = part.ends_with(' ');
      text.remove_prefix(length);
    }
    while (squeeze && out.ends_with(blank)) out.resize(out.size() - blank.size());
    if (dummy && spec_.whitespace_as_suffix) out += blank;
    return out;
  }

  void symbols_of(std::string_view word, std::vector<MergeSymbol>& symbols) const {
    symbols.clear();
    for (size_t at = 0; at < word.size();) {
      const size_t fixed = user_defined_length(word.substr(at));
      const size_t length = fixed > 0 ? fixed : decode_utf8(word, at).length;
      append_symbol(symbols, fixed > 0 ? kFrozen : -1, at, length);
      at += length;
    }
  }

  std::optional<Merge> merged(std::string_view word, const MergeSymbol& left, const MergeSymbol& right,
                              Session& session) const {
    if (left.id == kFrozen || right.id == kFrozen) return std::nullopt;
    const std::string_view text = word.substr(left.begin, left.length + right.length);
    const auto piece = pieces_.find(text);
    if (piece == pieces_.end()) return std::nullopt;
    if (is_unused(piece->second)) session.parts[text] = {text.substr(0, left.length), text.substr(left.length)};
    return Merge{ranks_[static_cast<size_t>(piece->second)], piece->second};
  }

  bool is_unused(int32_t id) const {
    return spec_.vocabulary.tokens[static_cast<size_t>(id)].type == TokenType::kUnused;
  }

  // An unused piece is taken apart again into what it was merged from.
  void append_symbol_ids(std::string_view text, Session& session, std::vector<int32_t>& ids, int depth) const {
    const auto piece = pieces_.find(text);
    if (piece == pieces_.end()) return append_unknown(text, ids);
    const auto parts = is_unused(piece->second) ? session.parts.find(text) : session.parts.end();
    if (parts == session.parts.end() || depth > 256) return ids.push_back(piece->second);
    append_symbol_ids(parts->second.first, session, ids, depth + 1);
    append_symbol_ids(parts->second.second, session, ids, depth + 1);
  }

  void append_unknown(std::string_view text, std::vector<int32_t>& ids) const {
    if (spec_.byte_fallback)
      for (const char c : text) ids.push_back(bytes_[static_cast<uint8_t>(c)]);
    else if (spec_.vocabulary.unknown)
      ids.push_back(*spec_.vocabulary.unknown);
  }

  // Neighbouring unknown pieces count as one.
  void fuse_unknown(std::vector<int32_t>& ids, size_t start) const {
    if (!spec_.vocabulary.unknown) return;
    const auto both = [&](int32_t a, int32_t b) { return a == b && a == *spec_.vocabulary.unknown; };
    ids.erase(std::unique(ids.begin() + static_cast<std::ptrdiff_t>(start), ids.end(), both), ids.end());
  }

  static void append_bytes(std::string_view run, std::string& text) {
    while (!run.empty()) {
      const size_t valid = valid_utf8_prefix(run);
      text.append(run.substr(0, valid));
      if (valid == run.size()) break;
      append_utf8(text, kReplacementCharacter);
      run.remove_prefix(valid + 1);
    }
  }

  // Returns whether the blank of the dummy prefix was taken off.
  bool append_piece(int32_t id, const VocabularyEntry& token, bool skip_special, bool expects_prefix,
                    std::string& text) const {
    if (token.type == TokenType::kControl) {
      if (!skip_special) text += token.text;
      return false;
    }
    if (id == spec_.vocabulary.unknown) {
      text += skip_special ? spec_.unknown_surface : token.text;
      return false;
    }
    std::string_view piece = token.text;
    bool taken = false;
    if (expects_prefix && (spec_.add_dummy_prefix || spec_.remove_extra_whitespaces) && piece.starts_with(kSpaceMark)) {
      piece.remove_prefix(kSpaceMark.size());
      taken = !spec_.remove_extra_whitespaces;
    }
    while (!piece.empty()) {
      const size_t mark = piece.find(kSpaceMark);
      text.append(piece.substr(0, mark));
      if (mark == std::string_view::npos) break;
      text += ' ';
      piece.remove_prefix(mark + kSpaceMark.size());
    }
    return taken;
  }

  SentencePieceSpec spec_;
  std::optional<CharacterMap> rules_;
  TokenIds pieces_;              // what merging can give
  std::vector<uint32_t> ranks_;  // by id
  std::vector<int32_t> bytes_;   // ids of the byte pieces; -1: none
  AddedTokens special_;          // control pieces and the unknown piece
  TokenFinder user_defined_;
  size_t longest_user_defined_ = 0;
  bool words_apart_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(SentencePieceSpec spec, std::string_view label) {
  return std::make_unique<SentencePieceTokenizer>(std::move(spec), label);
}

SentencePieceSpec sentencepiece_spec(std::span<const std::byte> model, std::string_view config_text,
                                     std::string_view label) {
  SentencePieceSpec spec = parse_sentencepiece_model(model, label);
  const TokenizerConfig config = parse_tokenizer_config(config_text, label);
  spec.vocabulary.add_bos = config.add_bos.value_or(true) && spec.vocabulary.bos;
  spec.vocabulary.add_eos = config.add_eos.value_or(false) && spec.vocabulary.eos;
  spec.vocabulary.add_space_prefix = spec.add_dummy_prefix;
  spec.vocabulary.pre = "default";
  return spec;
}

SentencePieceSpec spec_of_pieces(Vocabulary vocabulary) {
  SentencePieceSpec spec;
  spec.add_dummy_prefix = vocabulary.add_space_prefix;
  spec.prefix_after_special = true;
  spec.byte_fallback = std::ranges::any_of(vocabulary.tokens,
                                           [](const VocabularyEntry& token) { return token.type == TokenType::kByte; });
  spec.vocabulary = std::move(vocabulary);
  return spec;
}

std::unique_ptr<Tokenizer> tokenizer_from_sentencepiece(std::span<const std::byte> model, std::string_view config,
                                                        std::string_view label) {
  return make_sentencepiece_tokenizer(sentencepiece_spec(model, config, label), label);
}

}  // namespace retort
