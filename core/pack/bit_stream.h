// Small integers in 32-bit words, low bits first, without gaps: 3-bit values straddle words.
#pragma once

#include <cstdint>

namespace retort {

inline constexpr int kWordBits = 32;

// Element `index` of a stream of `bits`-bit values in words that lie `stride` apart.
struct BitStream {
  uint32_t* words;
  int64_t stride;
  int bits;

  void put(int64_t index, uint32_t value) const {
    const int64_t bit = index * bits, word = bit / kWordBits;
    const int shift = static_cast<int>(bit % kWordBits);
    words[word * stride] |= value << shift;
    if (shift + bits > kWordBits) words[(word + 1) * stride] |= value >> (kWordBits - shift);
  }
  uint32_t get(int64_t index) const {
    const int64_t bit = index * bits, word = bit / kWordBits;
    const int shift = static_cast<int>(bit % kWordBits);
    uint32_t value = words[word * stride] >> shift;
    if (shift + bits > kWordBits) value |= words[(word + 1) * stride] << (kWordBits - shift);
    return value & ((1u << bits) - 1);
  }
};

}  // namespace retort
