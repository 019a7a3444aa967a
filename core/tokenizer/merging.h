// The loop that BPE and SentencePiece share: neighbouring symbols of one word are merged, best pair first, with a
// priority queue, in O(n log n) for n symbols (the scheme of SentencePiece's bpe_model.cc).
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace retort {

struct MergeSymbol {
  int32_t id;              // what a look-up needs; -1: none
  uint32_t begin;          // bytes of the word
  uint32_t length;         // 0: merged into the symbol before it
  int32_t previous, next;  // -1: none
};

// What two neighbours become. A lower rank goes first, among equal ranks the leftmost pair.
struct Merge {
  uint32_t rank;
  int32_t id;
};

// Scratch memory of merge_symbols, kept between words.
class MergeQueue {
 public:
  struct Candidate {
    uint32_t rank;
    int32_t position, id;
    // The queue is a max-heap: "less" means later.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  void clear() { heap_.clear(); }
  void push(Candidate candidate) {
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end());
  }
  std::optional<Candidate> pop() {
    if (heap_.empty()) return std::nullopt;
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate best = heap_.back();
    heap_.pop_back();
    return best;
  }

 private:
  std::vector<Candidate> heap_;
};

// Appends a symbol to the chain.
inline void append_symbol(std::vector<MergeSymbol>& symbols, int32_t id, size_t begin, size_t length) {
  const auto index = static_cast<int32_t>(symbols.size());
  if (index > 0) symbols.back().next = index;
  symbols.push_back({id, static_cast<uint32_t>(begin), static_cast<uint32_t>(length), index - 1, -1});
}

// lookup(left, right) gives the Merge of two neighbouring symbols, if there is one; it is asked again when its
// answer is used, so that answers overtaken by other merges are dropped. Afterwards symbols of length 0 are dead.
template <typename Lookup>
void merge_symbols(std::vector<MergeSymbol>& symbols, MergeQueue& queue, Lookup&& lookup) {
  queue.clear();
  const auto offer = [&](int32_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const std::optional<Merge> merge = lookup(symbols[left], symbols[symbols[left].next]);
    if (merge) queue.push({merge->rank, left, merge->id});
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) offer(static_cast<int32_t>(i));
  while (const auto best = queue.pop()) {
    MergeSymbol& left = symbols[best->position];
    if (left.length == 0 || left.next < 0) continue;
    MergeSymbol& right = symbols[left.next];
    const std::optional<Merge> still = lookup(left, right);
    if (!still || still->id != best->id) continue;
    left.id = best->id;
    left.length += right.length;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) symbols[left.next].previous = best->position;
    offer(left.previous);
    offer(best->position);
  }
}

}  // namespace retort
