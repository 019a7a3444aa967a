// An open-addressing hash map from uint64_t to small values, for tables that are filled once and read often
// (merges of a BPE, edges of a trie). The key ~0 is reserved.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace retort {

template <typename Value>
class FlatMap {
 public:
  // Sets the value of `key`, replacing an earlier one.
  void set(uint64_t key, Value value) {
    if ((count_ + 1) * 2 > slots_.size()) grow();
    Slot& slot = slots_[position(key)];
    if (slot.key == kEmpty) ++count_;
    slot = {key, value};
  }

  const Value* find(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[position(key)];
    return slot.key == kEmpty ? nullptr : &slot.value;
  }

  size_t size() const { return count_; }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };

  // Where `key` is or belongs. Fibonacci hashing, linear probing.
  size_t position(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>(((key ^ (key >> 32)) * 0x9E3779B97F4A7C15u) >> shift_);
    while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  void grow() {
    std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots_.empty() ? 16 : slots_.size() * 2));
    shift_ = 64 - std::countr_zero(slots_.size());
    for (const Slot& slot : old)
      if (slot.key != kEmpty) slots_[position(slot.key)] = slot;
  }

  std::vector<Slot> slots_;  // a power of two
  size_t count_ = 0;
  int shift_ = 64;
};

}  // namespace retort
