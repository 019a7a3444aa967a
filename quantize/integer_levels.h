// Levels of weights in integers of 16 bits, and what the fit of a scale to them needs. Integers give the same sums on
// every machine.
#pragma once

#include <cstdint>

#include "quantize/grid_search.h"

namespace retort {

typedef int32_t GroupWords __attribute__((vector_size(kGroupLanes * sizeof(int32_t)), aligned(4)));

// One group in each lane, two of its weights in each word. |weight| * most level * number of weights < 2^31.
struct IntegerTile {
  static constexpr int64_t kMostWords = 256;
  int64_t size = 0;  // in words
  int16_t low = 0, high = 0;
  alignas(32) GroupWords words[kMostWords];
};

struct LevelSums {
  GroupWords product, square;  // of level * weight, and of level^2
};

constexpr int64_t kFactors = 4;  // at a time

// For kFactors inverse scales, by lane the sums over the levels round(weight * factor / 2^15) held in [low, high];
// halves are rounded up. A factor stands in both halves of its word.
void sum_integer_levels(const IntegerTile& tile, const GroupWords* factors, LevelSums* sums);
// The same without the instructions of AVX2.
void sum_integer_levels_portably(const IntegerTile& tile, const GroupWords* factors, LevelSums* sums);

}  // namespace retort
