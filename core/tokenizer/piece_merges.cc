#include "core/tokenizer/piece_merges.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

// What merging can give, by text.
using Pieces = std::unordered_map<std::string_view, const VocabularyEntry*>;

Pieces pieces_of(const Vocabulary& vocabulary) {
  Pieces pieces;
  for (const VocabularyEntry& token : vocabulary.tokens)
    if (token.type == TokenType::kNormal || token.type == TokenType::kUnused) pieces.emplace(token.text, &token);
  return pieces;
}

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

// A piece with the places where it can be cut in two that merging makes it of.
struct Cuts {
  const VocabularyEntry* piece;
  std::vector<size_t> places;
  std::string_view unknown;  // a character at one of its ends that is no piece; empty: there is none
};

Cuts cuts_of(const VocabularyEntry& token, const Pieces& pieces) {
  Cuts cuts{&token, {}, {}};
  const std::string_view text = token.text;
  // The text that is merged has no blanks.
  if (text.empty() || text.find(' ') != std::string_view::npos) return cuts;
  const auto is_symbol = [&](std::string_view part) {
    return pieces.contains(part) || decode_utf8(part, 0).length == part.size();
  };
  for (size_t at = 0; (at += decode_utf8(text, at).length) < text.size();) {
    if (!is_symbol(text.substr(0, at)) || !is_symbol(text.substr(at))) continue;
    for (const std::string_view part : {text.substr(0, at), text.substr(at)})
      if (!pieces.contains(part)) cuts.unknown = part;
    cuts.places.push_back(at);
  }
  return cuts;
}

// NaN as SentencePieceTokenizer has it.
float score_of(const Cuts& cuts) { return cuts.piece->score == cuts.piece->score ? cuts.piece->score : 0; }

std::string refusal_of(const Cuts& cuts) {
  const std::string piece = quoted(cuts.piece->text);
  if (!cuts.unknown.empty())
    return "its piece " + piece + " has the character " + quoted(cuts.unknown) + ", which is no piece";
  if (cuts.piece->type == TokenType::kUnused) return "its piece " + piece + " is merged and taken apart again";
  return {};
}

// Runs of one character, as Llama 2 has them for blanks, may share their score.
bool collide(const Cuts& a, const Cuts& b) {
  const std::string_view run = repeated_character(a.piece->text);
  return score_of(a) == score_of(b) && (run.empty() || run != repeated_character(b.piece->text));
}

struct Merge {
  float score;
  MergedPair pair;
  bool operator<(const Merge& other) const {  // earlier
    return score != other.score ? score > other.score : longer_first(pair, other.pair);
  }
};

}  // namespace

bool longer_first(const MergedPair& first, const MergedPair& second) {
  return first.first.size() != second.first.size() ? first.first.size() > second.first.size()
                                                   : first.second.size() > second.second.size();
}

PieceMerges merges_of_pieces(const Vocabulary& vocabulary) {
  const Pieces pieces = pieces_of(vocabulary);
  std::vector<Cuts> all;
  std::vector<Merge> merges;
  for (const VocabularyEntry& token : vocabulary.tokens) {
    const auto piece = pieces.find(token.text);
    if (piece == pieces.end() || piece->second != &token) continue;
    Cuts cuts = cuts_of(token, pieces);
    if (cuts.places.empty()) continue;
    if (const std::string refusal = refusal_of(cuts); !refusal.empty()) return {{}, refusal};
    for (const size_t at : cuts.places)
      merges.push_back({score_of(cuts), {token.text.substr(0, at), token.text.substr(at)}});
    all.push_back(std::move(cuts));
  }
  std::ranges::stable_sort(all, std::ranges::greater(), score_of);
  const auto two = std::ranges::adjacent_find(all, collide);
  if (two != all.end())
    return {{},
            "its pieces " + quoted(two->piece->text) + " and " + quoted((two + 1)->piece->text) + " have one score"};
  std::ranges::stable_sort(merges, std::less());
  PieceMerges result;
  for (Merge& merge : merges) result.merges.push_back(std::move(merge.pair));
  return result;
}

}  // namespace retort
