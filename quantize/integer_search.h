// The search for symmetric scales in integers of 16 bits. Which of many scales leaves the smallest error is told by
// weights of 8 to 14 bits as well as by floats, at two weights in the room of one. Sums of integers are the same on
// every machine.
#pragma once

#include <cstdint>

#include "quantize/grid_search.h"

namespace retort {

// Whether the candidates for these groups can be ranked in integers: levels without a minimum, a zero point that is
// looked for, a code book or importance, of fewer than 8 bits, in groups that are not long.
bool ranks_in_integers(const GridSearch& search, const GroupTile& tile);

// Inverse scales by lane: the one with the smallest error of those that `search` tries, and that of the scale which
// fits its levels best.
struct RankedInverses {
  GroupLanes tried, fitted;
};
// `unit`: the inverse of the scale that puts the largest weight on search.reach; 0 where all weights are as good as 0,
// and so is the result.
void rank_in_integers(const GridSearch& search, const GroupTile& tile, const GroupLanes& unit, RankedInverses& ranked);

}  // namespace retort
