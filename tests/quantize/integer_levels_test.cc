// Sums over levels in integers against their definition.
#include "quantize/integer_levels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

namespace retort {
namespace {

int32_t word(int low, int high) { return (low & 0xffff) | static_cast<int32_t>(static_cast<uint32_t>(high) << 16); }

// Random weights, the extremes among them; `weights` as [2 * words][lane].
IntegerTile random_tile(int64_t words, unsigned seed, std::vector<std::array<int, kGroupLanes>>& weights) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> draw(-8192, 8192);
  weights.resize(static_cast<size_t>(2 * words));
  for (auto& lanes : weights)
    for (int& weight : lanes) weight = draw(random);
  weights.front()[0] = 8192, weights.back()[0] = -8192;
  IntegerTile tile;
  tile.size = words;
  for (int64_t i = 0; i < words; ++i)
    for (int64_t lane = 0; lane < kGroupLanes; ++lane) {
      const auto at = static_cast<size_t>(lane);
      tile.words[i][lane] = word(weights[static_cast<size_t>(2 * i)][at], weights[static_cast<size_t>(2 * i + 1)][at]);
    }
  return tile;
}

TEST(IntegerLevels, SumsAreThoseOfTheDefinition) {
  for (const int64_t words : {1, 2, 9, 16, 256}) {
    std::vector<std::array<int, kGroupLanes>> weights;
    IntegerTile tile = random_tile(words, static_cast<unsigned>(words), weights);
    tile.low = -8, tile.high = 7;
    constexpr int kMultiples[kFactors] = {1, -4, 3, 0};
    GroupWords factors[kFactors];
    for (int64_t lane = 0; lane < kGroupLanes; ++lane) {
      const int factor = static_cast<int>(29 * lane) - 101;
      for (int64_t k = 0; k < kFactors; ++k) factors[k][lane] = word(kMultiples[k] * factor, kMultiples[k] * factor);
    }
    LevelSums sums[kFactors], portable[kFactors];
    sum_integer_levels(tile, factors, sums);
    sum_integer_levels_portably(tile, factors, portable);
    for (int64_t k = 0; k < kFactors; ++k)
      for (int64_t lane = 0; lane < kGroupLanes; ++lane) {
        const int factor = kMultiples[k] * (static_cast<int>(29 * lane) - 101);
        int64_t product = 0, square = 0;
        for (const auto& lanes : weights) {
          const int weight = lanes[static_cast<size_t>(lane)];
          const double level = std::clamp(std::floor(weight * factor / 32768.0 + 0.5), -8.0, 7.0);
          product += static_cast<int64_t>(level) * weight, square += static_cast<int64_t>(level * level);
        }
        EXPECT_EQ(sums[k].product[lane], product);
        EXPECT_EQ(sums[k].square[lane], square);
        EXPECT_EQ(portable[k].product[lane], product);
        EXPECT_EQ(portable[k].square[lane], square);
      }
  }
}

}  // namespace
}  // namespace retort
