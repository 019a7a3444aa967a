// From the scores of SentencePiece to the merges of BPE.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/tokenizer/tokenizer.h"

namespace retort {

struct PieceMerges {
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::string refusal;  // why no merges give the ids that the scores give; empty: these do
};

// Every two pieces that make a piece together, the highest score first, and among equal scores the longest left part:
// runs of one character are then merged from left to right, as SentencePiece does. The order is that of transformers
// (convert_slow_tokenizer.py, generate_merges).
PieceMerges merges_of_pieces(const Vocabulary& vocabulary);

}  // namespace retort
