#include "quantize/integer_levels.h"

#include <immintrin.h>

#include <algorithm>

namespace retort {
namespace {

int16_t half(int32_t word, int which) { return static_cast<int16_t>(word >> (16 * which)); }

// Of two factors, whose sums all have room in the registers.
__attribute__((target("avx2"))) inline void sum_pair(const IntegerTile& tile, const GroupWords* factors,
                                                     LevelSums* sums) {
  const auto factor0 = reinterpret_cast<__m256i>(factors[0]), factor1 = reinterpret_cast<__m256i>(factors[1]);
  const __m256i low = _mm256_set1_epi16(tile.low), high = _mm256_set1_epi16(tile.high);
  __m256i product0 = _mm256_setzero_si256(), square0 = product0, product1 = product0, square1 = product0;
  for (int64_t i = 0; i < tile.size; ++i) {
    const auto weights = reinterpret_cast<__m256i>(tile.words[i]);
    __m256i level0 = _mm256_mulhrs_epi16(weights, factor0), level1 = _mm256_mulhrs_epi16(weights, factor1);
    level0 = _mm256_max_epi16(_mm256_min_epi16(level0, high), low);
    level1 = _mm256_max_epi16(_mm256_min_epi16(level1, high), low);
    product0 = _mm256_add_epi32(product0, _mm256_madd_epi16(level0, weights));
    product1 = _mm256_add_epi32(product1, _mm256_madd_epi16(level1, weights));
    square0 = _mm256_add_epi32(square0, _mm256_madd_epi16(level0, level0));
    square1 = _mm256_add_epi32(square1, _mm256_madd_epi16(level1, level1));
  }
  sums[0] = {reinterpret_cast<GroupWords>(product0), reinterpret_cast<GroupWords>(square0)};
  sums[1] = {reinterpret_cast<GroupWords>(product1), reinterpret_cast<GroupWords>(square1)};
}

__attribute__((target("avx2"))) void sum_avx2(const IntegerTile& tile, const GroupWords* factors, LevelSums* sums) {
  for (int64_t k = 0; k < kFactors; k += 2) sum_pair(tile, factors + k, sums + k);
}

}  // namespace

void sum_integer_levels_portably(const IntegerTile& tile, const GroupWords* factors, LevelSums* sums) {
  for (int64_t k = 0; k < kFactors; ++k) {
    sums[k] = LevelSums{};
    for (int64_t i = 0; i < 2 * tile.size; ++i)
      for (int64_t lane = 0; lane < kGroupLanes; ++lane) {
        const int32_t weight = half(tile.words[i / 2][lane], i % 2);
        const int32_t rounded = (weight * half(factors[k][lane], 0) + (1 << 14)) >> 15;
        const int32_t level = std::clamp<int32_t>(rounded, tile.low, tile.high);
        sums[k].product[lane] += level * weight, sums[k].square[lane] += level * level;
      }
  }
}

void sum_integer_levels(const IntegerTile& tile, const GroupWords* factors, LevelSums* sums) {
  static const auto best = __builtin_cpu_supports("avx2") ? sum_avx2 : sum_integer_levels_portably;
  best(tile, factors, sums);
}

}  // namespace retort
