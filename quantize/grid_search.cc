#include "quantize/grid_search.h"

#include <array>
#include <limits>

#include "quantize/integer_search.h"

namespace retort {
namespace {

constexpr float kTooSmall = 0x1p-26f, kTooLarge = 65504.0f;  // scales that f16 cannot hold
constexpr int64_t kMostCandidates = 16;
constexpr int64_t kRun = 1024;  // weights that are added up before their sum is: floats have 24 bits

// A weight x has the level round(x * inverse + shift), held in the group's bounds.
struct Candidate {
  GroupLanes inverse, shift;
};

typedef int32_t LaneMask __attribute__((vector_size(kGroupLanes * sizeof(int32_t)), aligned(4)));
typedef double WideLanes __attribute__((vector_size(kGroupLanes * sizeof(double)), aligned(8)));
typedef int64_t WideMask __attribute__((vector_size(kGroupLanes * sizeof(int64_t)), aligned(8)));
#define RETORT_WIDE(lanes) __builtin_convertvector(lanes, WideLanes)

struct Bounds {
  GroupLanes low, high;  // of levels
};

// What to try: `count` scales (of each sign, where both are tried) from the inverse that just holds the largest weight
// times `from` to that times `to`; above 1 the largest is clipped. Then `neighbours` scales around the best of them, up
// to `reach` away; with minima sixteen in any case.
struct Range {
  float from, to;
  int64_t count = kMostCandidates, neighbours = 8;
  float reach = 0.08f;
};
// Eight bits have little to win. No range puts the largest weight in the middle between two codes, where the last bit
// of a weight would decide; in integers (integer_search.h) ties are decided the same way for every group. In blocks of
// four bits the range of both signs may be narrow: what is clipped with one is held with the other.
Range widths_of(const Scheme& scheme, bool turned) {
  const int64_t count = turned ? kMostCandidates / 2 : kMostCandidates;
  if (scheme.book != CodeBook::kLinear) return {0.80f, 1.40f, count};
  switch (scheme.bits) {
    case 2: return {0.70f, 2.20f, count};
    case 3: return {0.75f, 1.80f, count};
    case 4: return turned ? Range{0.88f, 1.10f, 4, 4, 0.04f} : Range{0.81f, 1.56f, count};
    case 8: return {1.0f, 1.015f, count};
    default: return {0.90f, 1.25f, count};
  }
}

RETORT_INLINE void join(GroupLanes& sums) {
  float sum = 0;
  for (int64_t lane = 0; lane < kGroupLanes; ++lane) sum += sums[lane];
  sums = GroupLanes{} + sum;
}

RETORT_INLINE void join(GroupTotals& totals) {
  join(totals.product);
  join(totals.square);
  join(totals.level);
}

template <bool kShifted>
RETORT_INLINE void round_to_level(const GroupLanes& x, const Candidate& candidate, const Bounds& bounds,
                                  GroupLanes& level) {
  level = x * candidate.inverse;
  if constexpr (kShifted) level += candidate.shift;
  level = level < bounds.low ? bounds.low : level;
  level = level > bounds.high ? bounds.high : level;
  level = (level + kRound) - kRound;
}

RETORT_INLINE void nearest_in_book(const GroupLanes& x, const Candidate& candidate, const float* levels,
                                   GroupLanes& level) {
  const GroupLanes scaled = x * candidate.inverse;
  level = GroupLanes{} + levels[0];
  for (int64_t k = 1; k < 16; ++k) {
    const GroupLanes next = GroupLanes{} + levels[k];
    level = scaled > 0.5f * (levels[k - 1] + levels[k]) ? next : level;
  }
}

// Two candidates at a time: each weight is loaded once for both.
template <bool kBook, bool kShifted, bool kWeighted>
RETORT_INLINE void sum_pair(const GroupTile& tile, const float* levels, const Candidate& first, const Candidate& second,
                            const Bounds& bounds, GroupTotals* totals) {
  totals[0] = totals[1] = GroupTotals{};
  for (int64_t begin = 0; begin < tile.size; begin += kRun) {
    const int64_t end = begin + kRun < tile.size ? begin + kRun : tile.size;
    GroupLanes product0 = {}, square0 = {}, sum0 = {}, product1 = {}, square1 = {}, sum1 = {};
    for (int64_t i = begin; i < end; ++i) {
      const GroupLanes x = tile.values[i];
      GroupLanes level0, level1;
      if constexpr (kBook) {
        nearest_in_book(x, first, levels, level0);
        nearest_in_book(x, second, levels, level1);
      } else {
        round_to_level<kShifted>(x, first, bounds, level0);
        round_to_level<kShifted>(x, second, bounds, level1);
      }
      GroupLanes weighted0 = level0, weighted1 = level1;
      if constexpr (kWeighted) weighted0 *= tile.importance[i], weighted1 *= tile.importance[i];
      product0 += weighted0 * x, product1 += weighted1 * x;
      square0 += weighted0 * level0, square1 += weighted1 * level1;
      if constexpr (kShifted) sum0 += weighted0, sum1 += weighted1;
    }
    totals[0].product += product0, totals[0].square += square0, totals[0].level += sum0;
    totals[1].product += product1, totals[1].square += square1, totals[1].level += sum1;
  }
  if (tile.joined) join(totals[0]), join(totals[1]);
}

// totals[0 .. 1] of the candidates, all but the sums that do not depend on levels.
RETORT_EACH_ISA void sum_candidates(const GridSearch& search, const GroupTile& tile, const Candidate& first,
                                    const Candidate& second, const Bounds& bounds, GroupTotals* totals) {
  const bool weighted = tile.importance != nullptr;
  if (search.levels != nullptr && weighted)
    sum_pair<true, false, true>(tile, search.levels, first, second, bounds, totals);
  else if (search.levels != nullptr)
    sum_pair<true, false, false>(tile, search.levels, first, second, bounds, totals);
  else if (search.minima && weighted)
    sum_pair<false, true, true>(tile, nullptr, first, second, bounds, totals);
  else if (search.minima)
    sum_pair<false, true, false>(tile, nullptr, first, second, bounds, totals);
  else if (weighted)
    sum_pair<false, false, true>(tile, nullptr, first, second, bounds, totals);
  else
    sum_pair<false, false, false>(tile, nullptr, first, second, bounds, totals);
}

// What is best so far, by lane.
struct Best {
  WideLanes gain;  // by how much the squared error falls below that of all zeros; -1: nothing tried has a level but 0
  GroupLanes zero;
  GroupTotals totals;
};

// With a minimum m, the least-squares scale s solves s * square - m * level = product, s * level - m * weight = value.
// In double: what is left of the differences is small where the weights lie far from zero.
struct Solution {
  WideLanes scale, minimum, determinant;  // numerators of both, and what they are divided by
  WideMask usable;                        // the scale is positive and the minimum allowed
};
RETORT_INLINE void solve(const GridSearch& search, const GroupTotals& t, Solution& s) {
  const WideLanes product = RETORT_WIDE(t.product), square = RETORT_WIDE(t.square), level = RETORT_WIDE(t.level),
                  value = RETORT_WIDE(t.value), weight = RETORT_WIDE(t.weight);
  s.determinant = square * weight - level * level;
  s.scale = product * weight - level * value;
  s.minimum = product * level - square * value;
  s.usable = (s.determinant > 1e-6 * square * weight) & (s.scale > 0.0) &
             (s.minimum >= (search.signed_minima ? -std::numeric_limits<double>::infinity() : 0.0));
}

RETORT_INLINE void keep_better(const GridSearch& search, const GroupTotals& totals, const GroupLanes& zero,
                               Best& best) {
  const GroupTotals t = totals;
  const WideLanes product = RETORT_WIDE(t.product), square = RETORT_WIDE(t.square);
  WideLanes gain = product * product / square;
  gain = square > 0.0 ? gain : WideLanes{} - 1.0;
  if (search.minima) {
    Solution s;
    solve(search, t, s);
    const WideLanes both = (s.scale * product - s.minimum * RETORT_WIDE(t.value)) / s.determinant;
    gain = s.usable ? both : gain;
  }
  const WideMask gained = gain > best.gain;
  best.gain = gained ? gain : best.gain;
  const LaneMask better = __builtin_convertvector(gained, LaneMask);
  best.zero = better ? zero : best.zero;
  best.totals.product = better ? t.product : best.totals.product;
  best.totals.square = better ? t.square : best.totals.square;
  best.totals.level = better ? t.level : best.totals.level;
}

// `count` is even. Of equals the first wins.
RETORT_EACH_ISA void try_candidates(const GridSearch& search, const GroupTile& tile, const Candidate* candidates,
                                    int64_t count, const GroupLanes& zero, Best& best) {
  Bounds bounds;
  bounds.low = GroupLanes{} - zero;
  bounds.high = search.max_code - zero;
  GroupTotals totals[2];
  for (int64_t i = 0; i < count; i += 2) {
    sum_candidates(search, tile, candidates[i], candidates[i + 1], bounds, totals);
    for (GroupTotals& t : totals) {
      t.value = best.totals.value, t.weight = best.totals.weight;
      keep_better(search, t, zero, best);
    }
  }
}

// `unit`: the inverse of the scale that just holds the largest weight; `least`: the weight that has code 0 when there
// are minima.
RETORT_EACH_ISA void list_widths(const GridSearch& search, const GroupLanes& unit, const GroupLanes& least,
                                 Candidate* candidates) {
  for (int64_t i = 0; i < search.widths; ++i) {
    candidates[i].inverse = (search.from + static_cast<float>(i) * search.step) * unit;
    candidates[i].shift = -candidates[i].inverse * least;
  }
}

RETORT_INLINE void finish(const GridSearch& search, const Best& best, GroupFits& fits) {
  const GroupTotals t = best.totals;
  fits.totals = t;
  fits.zero = best.zero;
  fits.scale = t.square > 0.0f ? t.product / t.square : GroupLanes{};
  fits.minimum = GroupLanes{};
  if (!search.minima) return;
  Solution s;
  solve(search, t, s);
  const LaneMask usable = __builtin_convertvector(s.usable, LaneMask);
  fits.scale = usable ? __builtin_convertvector(s.scale / s.determinant, GroupLanes) : fits.scale;
  fits.minimum = usable ? __builtin_convertvector(s.minimum / s.determinant, GroupLanes) : fits.minimum;
}

// Neighbours of the best grid: scales, or four scales with four minima each.
RETORT_EACH_ISA void list_around(const GridSearch& search, const Best& best, Candidate* candidates) {
  constexpr float kScales[] = {0.94f, 0.98f, 1.02f, 1.06f}, kShifts[] = {-0.3f, -0.1f, 0.1f, 0.3f};
  GroupFits fits;
  finish(search, best, fits);
  const GroupLanes inverse = fits.scale != 0.0f ? 1.0f / fits.scale : GroupLanes{};
  for (int64_t i = 0; i < search.neighbours; ++i) {
    const float step = 2 * search.reach_around / static_cast<float>(search.neighbours - 1);
    const float width = search.minima ? kScales[i / 4] : 1.0f - search.reach_around + step * static_cast<float>(i);
    candidates[i].inverse = width * inverse;
    candidates[i].shift = fits.minimum * candidates[i].inverse + kShifts[i % 4];
  }
}

struct Extremes {
  GroupLanes least, most;
};

RETORT_EACH_ISA void find_extremes(const GroupTile& tile, Extremes& extremes) {
  GroupLanes least = tile.values[0], most = least;
  for (int64_t i = 1; i < tile.size; ++i) {
    const GroupLanes x = tile.values[i];
    least = x < least ? x : least;
    most = x > most ? x : most;
  }
  for (int64_t lane = 0; tile.joined && lane < kGroupLanes; ++lane) {
    least = least[lane] < least ? GroupLanes{} + least[lane] : least;
    most = most[lane] > most ? GroupLanes{} + most[lane] : most;
  }
  extremes = {least, most};
}

// The sums that do not depend on levels.
RETORT_EACH_ISA void sum_weights(const GroupTile& tile, GroupTotals& totals) {
  totals.value = totals.weight = GroupLanes{};
  for (int64_t begin = 0; begin < tile.size; begin += kRun) {
    GroupLanes value = {}, weight = {};
    for (int64_t i = begin; i < begin + kRun && i < tile.size; ++i) {
      const GroupLanes w = tile.importance != nullptr ? tile.importance[i] : GroupLanes{} + 1.0f;
      value += w * tile.values[i], weight += w;
    }
    totals.value += value, totals.weight += weight;
  }
  if (tile.joined) join(totals.value), join(totals.weight);
}

// `unit` of the widths and the zero point that just fits; 0 in lanes where all weights are as good as 0.
RETORT_EACH_ISA void place_range(const GridSearch& search, Extremes& extremes, GroupLanes& unit, GroupLanes& zero) {
  GroupLanes least = extremes.least, most = extremes.most;
  if (!search.signed_minima) least = least < 0.0f ? least : GroupLanes{}, most = most > 0.0f ? most : GroupLanes{};
  extremes = {least, most};
  const bool spans = search.minima || search.zeros;
  const GroupLanes largest = -least > most ? -least : most, range = spans ? most - least : largest;
  unit = range < kTooSmall ? GroupLanes{} : (spans ? search.max_code : search.reach) / range;
  zero = search.zeros ? (-least * unit + kRound) - kRound : GroupLanes{} + search.middle;
}

// Moves the zero point where it stays one and the weights have both signs; `unit` is 0 elsewhere.
RETORT_EACH_ISA void move_zero(const GridSearch& search, const Extremes& extremes, float by, GroupLanes& zero,
                               GroupLanes& unit) {
  zero += by;
  const LaneMask possible =
      (zero >= 0.0f) & (zero <= search.max_code) & (extremes.least < 0.0f) & (extremes.most > 0.0f);
  unit = possible ? unit : GroupLanes{};
}

// A scale that f16 cannot hold is infinite.
RETORT_INLINE void refuse_large(const GridSearch& search, const Extremes& extremes, GroupFits& fits) {
  const GroupLanes least = extremes.least, most = extremes.most, largest = -least > most ? -least : most;
  const GroupLanes infinite = GroupLanes{} + std::numeric_limits<float>::infinity();
  fits.scale = largest > kTooLarge * search.max_code ? infinite : fits.scale;
}

// Groups of one value have it as their minimum.
RETORT_EACH_ISA void take_best(const GridSearch& search, const Best& best, const Extremes& extremes, GroupFits& fits) {
  finish(search, best, fits);
  const GroupLanes least = extremes.least, most = extremes.most;
  if (search.signed_minima) fits.minimum = most - least < kTooSmall ? -least : fits.minimum;
  refuse_large(search, extremes, fits);
}

RETORT_INLINE void round_lanes(GroupLanes& values) {
  const LaneMask bits = (LaneMask)values, magnitude = bits & 0x7fffffff;
  const GroupLanes size = (GroupLanes)magnitude;
  const GroupLanes subnormal = (size + 0.5f) - 0.5f;  // multiples of 2^-24
  const GroupLanes normal = (GroupLanes)((magnitude + 0xfff + ((magnitude >> 13) & 1)) & ~0x1fff);
  GroupLanes rounded = size < 0x1p-14f ? subnormal : normal;
  rounded = size >= 65520.0f ? GroupLanes{} + std::numeric_limits<float>::infinity() : rounded;
  values = (GroupLanes)((LaneMask)rounded | (bits & ~0x7fffffff));
}

struct UnitLosses {
  GroupLanes unit, loss;
};

// Of eight units: extreme on reach * (1 - 0.016 * k), k from `first`.
RETORT_EACH_ISA void try_units(const float* values, const float* weights, float first, float extreme, float reach,
                               float least, float most, UnitLosses& losses) {
  constexpr GroupLanes kSteps = {0, 1, 2, 3, 4, 5, 6, 7};
  const GroupLanes low = GroupLanes{} + least, high = GroupLanes{} + most;
  GroupLanes unit = extreme / (reach * (1.0f - 0.016f * (first + kSteps)));
  round_lanes(unit);
  unit = unit == 0.0f ? GroupLanes{} + __builtin_copysignf(0x1p-24f, extreme / reach) : unit;
  const GroupLanes inverse = 1.0f / unit;
  GroupLanes loss = {};
  for (int64_t g = 0; g < 16; ++g) {
    GroupLanes multiple = values[g] * inverse;
    multiple = multiple < low ? low : multiple;
    multiple = multiple > high ? high : multiple;
    const GroupLanes miss = values[g] - unit * ((multiple + kRound) - kRound);
    loss += weights[g] * (miss * miss);
  }
  losses = {unit, loss};
}

// Blocks of 1, 2 and 4 change places across the diagonal of eight rows of eight.
RETORT_INLINE void exchange_ones(GroupLanes& upper, GroupLanes& lower) {
  const GroupLanes joined = __builtin_shufflevector(upper, lower, 0, 8, 2, 10, 4, 12, 6, 14);
  lower = __builtin_shufflevector(upper, lower, 1, 9, 3, 11, 5, 13, 7, 15);
  upper = joined;
}

RETORT_INLINE void exchange_twos(GroupLanes& upper, GroupLanes& lower) {
  const GroupLanes joined = __builtin_shufflevector(upper, lower, 0, 1, 8, 9, 4, 5, 12, 13);
  lower = __builtin_shufflevector(upper, lower, 2, 3, 10, 11, 6, 7, 14, 15);
  upper = joined;
}

RETORT_INLINE void exchange_fours(GroupLanes& upper, GroupLanes& lower) {
  const GroupLanes joined = __builtin_shufflevector(upper, lower, 0, 1, 2, 3, 8, 9, 10, 11);
  lower = __builtin_shufflevector(upper, lower, 4, 5, 6, 7, 12, 13, 14, 15);
  upper = joined;
}

// Rows become columns.
RETORT_INLINE void transpose(GroupLanes* rows) {
  for (const int row : {0, 2, 4, 6}) exchange_ones(rows[row], rows[row + 1]);
  for (const int row : {0, 1, 4, 5}) exchange_twos(rows[row], rows[row + 2]);
  for (const int row : {0, 1, 2, 3}) exchange_fours(rows[row], rows[row + 4]);
}

}  // namespace

GridSearch::GridSearch(const Scheme& scheme, GridRule rule)
    : minima(scheme.has_minima()),
      signed_minima(minima && !scheme.is_super_block()),
      zeros(scheme.has_zeros()),
      turned(scheme.is_block() && scheme.symmetric && scheme.bits != 8),
      max_code(scheme.max_code()),
      middle(scheme.symmetric ? scheme.middle() : 0),
      reach(middle - (scheme.bits == 8 ? 1.0f : 0.0f)),
      levels(nullptr) {
  if (scheme.book != CodeBook::kLinear) levels = levels_of(scheme.book).data(), reach = -levels[0];
  const bool searches = rule == GridRule::kSmallestError;
  const Range range = searches ? widths_of(scheme, turned) : Range{1, 1, 2, 0};
  widths = range.count;
  neighbours = searches && minima ? kMostCandidates : range.neighbours;
  reach_around = range.reach;
  from = range.from, step = (range.to - range.from) / static_cast<float>(widths - 1);
}

RETORT_EACH_ISA void interleave(const float* const* groups, int64_t size, GroupLanes* out) {
  int64_t i = 0;
  for (; i + kGroupLanes <= size; i += kGroupLanes) {
    GroupLanes rows[kGroupLanes];
#pragma GCC unroll 8
    for (int64_t lane = 0; lane < kGroupLanes; ++lane)
      rows[lane] = *reinterpret_cast<const GroupLanes*>(groups[lane] + i);
    transpose(rows);
#pragma GCC unroll 8
    for (int64_t k = 0; k < kGroupLanes; ++k) out[i + k] = rows[k];
  }
  for (; i < size; ++i)
    for (int64_t lane = 0; lane < kGroupLanes; ++lane) out[i][lane] = groups[lane][i];
}

void search_grids(const GridSearch& search, const GroupTile& tile, GroupFits& fits) {
  std::array<Candidate, kMostCandidates> candidates;
  Extremes extremes;
  Best best{.gain = WideLanes{} - 1.0, .zero = {}, .totals = {}};
  GroupLanes unit, zero;
  find_extremes(tile, extremes);
  if (search.minima) sum_weights(tile, best.totals);
  place_range(search, extremes, unit, zero);
  best.zero = zero;
  if (fits_in_integers(search, tile)) {
    fits.totals = best.totals, fits.zero = zero;
    fit_in_integers(search, tile, unit, fits);
    return refuse_large(search, extremes, fits);
  }
  const auto try_widths = [&](const GroupLanes& width) {
    list_widths(search, width, extremes.least, candidates.data());
    try_candidates(search, tile, candidates.data(), search.widths, zero, best);
  };
  try_widths(unit);
  if (search.turned) try_widths(-unit);
  for (const float by : {-1.0f, 2.0f}) {  // the zero points below and above
    if (!search.zeros || search.neighbours == 0) break;
    GroupLanes possible = unit;
    move_zero(search, extremes, by, zero, possible);
    try_widths(possible);
  }
  if (search.neighbours > 0) {
    list_around(search, best, candidates.data());
    try_candidates(search, tile, candidates.data(), search.neighbours, best.zero, best);
  }
  take_best(search, best, extremes, fits);
}

RETORT_EACH_ISA void sum_levels(const GridSearch& search, const GroupTile& tile, GroupFits& fits) {
  Candidate grid;
  grid.inverse = fits.scale != 0.0f ? 1.0f / fits.scale : GroupLanes{};
  grid.shift = fits.minimum * grid.inverse;
  GroupTotals totals[2];
  sum_candidates(search, tile, grid, grid, {-fits.zero, search.max_code - fits.zero}, totals);
  fits.totals.product = totals[0].product;
  fits.totals.square = totals[0].square;
  fits.totals.level = totals[0].level;
}

RETORT_EACH_ISA void round_to_f16(GroupLanes& values) { round_lanes(values); }

Multiples best_multiple(const float* values, const float* weights, float extreme, float reach, float least,
                        float most) {
  if (extreme == 0) return {};
  Multiples best{0, std::numeric_limits<float>::infinity()};
  for (const float first : {0.0f, 8.0f}) {
    UnitLosses losses;
    try_units(values, weights, first, extreme, reach, least, most, losses);
    for (int64_t i = 0; i < kGroupLanes; ++i)
      if (losses.loss[i] < best.loss) best = {losses.unit[i], losses.loss[i]};
  }
  return best;
}

}  // namespace retort
