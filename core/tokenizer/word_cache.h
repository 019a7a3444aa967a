// Words seen before and their ids: text repeats itself. Bounded; belongs to one call of encode.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace retort {

// Lets a map of strings be searched by string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using TokenIds = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

class WordCache {
 public:
  // Appends the ids of a known word.
  bool append(std::string_view word, std::vector<int32_t>& ids) const {
    const auto known = words_.find(word);
    if (known == words_.end()) return false;
    const auto begin = arena_.begin() + known->second.begin;
    ids.insert(ids.end(), begin, begin + known->second.count);
    return true;
  }

  // Remembers that `word` gives ids[first...]; long words and words beyond the bound are passed over.
  void remember(std::string_view word, const std::vector<int32_t>& ids, size_t first) {
    if (word.size() > kLongest || words_.size() >= kMost) return;
    words_.emplace(word, Entry{static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(ids.size() - first)});
    arena_.insert(arena_.end(), ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
  }

 private:
  static constexpr size_t kMost = 1 << 16, kLongest = 64;  // words; bytes of one
  struct Entry {
    uint32_t begin, count;  // in arena_
  };
  std::unordered_map<std::string, Entry, StringHash, std::equal_to<>> words_;
  std::vector<int32_t> arena_;
};

}  // namespace retort
