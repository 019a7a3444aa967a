#include "quantize/integer_search.h"

#include "quantize/integer_levels.h"

namespace retort {
namespace {

// The scale that puts the largest weight on search.reach, in units of the integers; the factor of its inverse.
constexpr float kUnit = 256.0f, kFactor = 32768.0f / kUnit;
constexpr float kMostFactor = 4095.0f;

// The best so far, by lane, in units of the integers: what lowers the squared error of all zeros most, which is by
// product^2 / square. The product is 0 where no weight has had a level but 0.
struct Ranking {
  GroupLanes product = {}, square = GroupLanes{} + 1.0f;
};

RETORT_EACH_ISA void pack_weights(const GroupTile& weights, const GroupLanes& unit, IntegerTile& tile) {
  const GroupLanes factor = unit * kUnit, zero = {};
  tile.size = (weights.size + 1) / 2;
  for (int64_t i = 0; i < tile.size; ++i) {
    const GroupLanes second = 2 * i + 1 < weights.size ? weights.values[2 * i + 1] : zero;
    const GroupWords low = __builtin_convertvector((weights.values[2 * i] * factor + kRound) - kRound, GroupWords),
                     high = __builtin_convertvector((second * factor + kRound) - kRound, GroupWords);
    tile.words[i] = (low & 0xffff) | (high << 16);
  }
}

// Of equals the first wins. A division for each would take as long as the sums of a short group.
RETORT_INLINE void keep_best(const LevelSums& sums, Ranking& best) {
  const GroupLanes product = __builtin_convertvector(sums.product, GroupLanes),
                   square = __builtin_convertvector(sums.square, GroupLanes);
  const auto better = product * product * best.square > best.product * best.product * square;
  best.product = better ? product : best.product;
  best.square = better ? square : best.square;
}

// From `first` on in steps of `step`; `count` is a multiple of kFactors.
RETORT_EACH_ISA void try_factors(const IntegerTile& tile, const GroupLanes& first, const GroupLanes& step,
                                 int64_t count, Ranking& best) {
  for (int64_t i = 0; i < count; i += kFactors) {
    GroupWords words[kFactors];
    LevelSums sums[kFactors];
    for (int64_t k = 0; k < kFactors; ++k) {
      const GroupLanes factor = ((first + static_cast<float>(i + k) * step) + kRound) - kRound;
      const GroupWords word = __builtin_convertvector(factor, GroupWords);
      words[k] = (word & 0xffff) | (word << 16);
    }
    sum_integer_levels(tile, words, sums);
    for (int64_t k = 0; k < kFactors; ++k) keep_best(sums[k], best);
  }
}

// Around the factor of the fitted scale's inverse; 0 where no weight has a level but 0.
RETORT_EACH_ISA void place_neighbours(const GridSearch& search, const Ranking& best, GroupLanes& first,
                                      GroupLanes& step) {
  GroupLanes factor = best.product != 0.0f ? 32768.0f * best.square / best.product : GroupLanes{};
  factor = factor > kMostFactor ? GroupLanes{} + kMostFactor : factor;
  factor = factor < -kMostFactor ? GroupLanes{} - kMostFactor : factor;
  first = (1.0f - search.reach_around) * factor;
  step = 2 * search.reach_around / static_cast<float>(search.neighbours - 1) * factor;
}

RETORT_EACH_ISA void take_best(const Ranking& best, const GroupLanes& unit, GroupFits& fits) {
  const GroupLanes size = unit > 0.0f ? 1.0f / (kUnit * unit) : GroupLanes{};  // of the integers' unit
  fits.scale = best.product / best.square * size;
  fits.minimum = GroupLanes{};
  fits.totals.product = best.product * size;
  fits.totals.square = best.product != 0.0f ? best.square : GroupLanes{};
  fits.totals.level = GroupLanes{};
}

}  // namespace

bool fits_in_integers(const GridSearch& search, const GroupTile& tile) {
  return !search.minima && !search.zeros && search.levels == nullptr && search.max_code < 128 &&
         search.neighbours > 0 && search.widths % kFactors == 0 && search.neighbours % kFactors == 0 &&
         tile.importance == nullptr && !tile.joined && tile.size <= 2 * IntegerTile::kMostWords;
}

void fit_in_integers(const GridSearch& search, const GroupTile& weights, const GroupLanes& unit, GroupFits& fits) {
  IntegerTile tile;
  tile.low = static_cast<int16_t>(-search.middle), tile.high = static_cast<int16_t>(search.max_code - search.middle);
  pack_weights(weights, unit, tile);
  Ranking best;
  const GroupLanes from = GroupLanes{} + kFactor * search.from, step = GroupLanes{} + kFactor * search.step;
  try_factors(tile, from, step, search.widths, best);
  if (search.turned) try_factors(tile, -from, -step, search.widths, best);
  GroupLanes first, apart;
  place_neighbours(search, best, first, apart);
  try_factors(tile, first, apart, search.neighbours, best);
  take_best(best, unit, fits);
}

}  // namespace retort
