// From the scores of SentencePiece to the merges of BPE.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/tokenizer/tokenizer.h"

namespace retort {

using MergedPair = std::pair<std::string, std::string>;

// Whether of two merges of one score the first comes earlier: with the longer left part, then with the longer right
// one.
bool longer_first(const MergedPair& first, const MergedPair& second);

struct PieceMerges {
  std::vector<MergedPair> merges;  // by rank
  std::string refusal;             // why no merges give the ids that the scores give; empty: these do
};

// Every two pieces that make a piece together, the highest score first, and among equal scores as longer_first has
// them: runs of one character are then merged from left to right, as SentencePiece does. The order is that of
// transformers (convert_slow_tokenizer.py, generate_merges).
PieceMerges merges_of_pieces(const Vocabulary& vocabulary);

}  // namespace retort
