// The search for scales, for eight groups of weights at once: one group in each lane of a vector. All that is chosen
// is chosen by lane, so a group's grid does not depend on its neighbours.
#pragma once

#include <cstdint>

#include "core/base/lanes.h"
#include "core/pack/scheme.h"

namespace retort {

constexpr int64_t kGroupLanes = kLanes;
typedef Lanes GroupLanes;

// How wide a grid is: as wide as the largest weight needs, or what leaves the smallest squared error.
enum class GridRule : uint8_t { kSmallestError, kLargestWeight };

// What the search of a scheme depends on.
struct GridSearch {
  GridSearch(const Scheme& scheme, GridRule rule);
  float from, step;     // widths to try: from + k * step
  int64_t widths;       // so many
  int64_t neighbours;   // then as many around the best,
  float reach_around;   // so far from it, without minima
  bool minima;          // value = scale * level - minimum
  bool signed_minima;   // a minimum may be negative
  bool zeros;           // levels are codes less a zero point that is looked for
  bool turned;          // a scale may be negative
  float max_code;       // levels are -zero .. max_code - zero
  float middle;         // the zero point that is not looked for
  float reach;          // the level that the largest weight gets where there are no minima and no zero points
  const float* levels;  // sixteen, of a code book; nullptr: integers
};

// [size] weights of each group. `importance` may be nullptr: all 1.
struct GroupTile {
  const GroupLanes* values;
  const GroupLanes* importance;
  int64_t size;
  bool joined = false;  // the lanes are parts of one group
};

// Sums over a group's weights of importance times: x * level, level^2, level, x, 1; the last three only with minima.
struct GroupTotals {
  GroupLanes product, square, level, value, weight;
};

// A group's best grid before anything is rounded, and how its error grows around it. A scale that f16 cannot hold is
// infinite.
struct GroupFits {
  GroupLanes scale, minimum, zero;
  GroupTotals totals;
};

// out[i][lane] = groups[lane][i] for i < size.
void interleave(const float* const* groups, int64_t size, GroupLanes* out);
void search_grids(const GridSearch& search, const GroupTile& tile, GroupFits& fits);
// The sums for the nearest levels on the grids that `fits` has; those that do not depend on levels stay.
void sum_levels(const GridSearch& search, const GroupTile& tile, GroupFits& fits);
void round_to_f16(GroupLanes& values);
// The f16 unit of sixteen integers, held in [least, most], that comes nearest to the values by the weighted squares of
// what is missed. Candidates put `extreme` on `reach` and on integers below.
struct Multiples {
  float unit = 0, loss = 0;
};
Multiples best_multiple(const float* values, const float* weights, float extreme, float reach, float least, float most);

}  // namespace retort
