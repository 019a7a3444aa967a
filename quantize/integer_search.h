// The search for symmetric scales in integers of 16 bits. Which of many scales leaves the smallest error is told by
// weights of 8 to 14 bits as well as by floats, at two weights in the room of one. Sums of integers are the same on
// every machine.
#pragma once

#include <cstdint>

#include "quantize/grid_search.h"

namespace retort {

// Whether scales for these groups can be looked for in integers: levels without a minimum, a zero point that is looked
// for, a code book or importance, of fewer than 8 bits, in groups that are not long.
bool fits_in_integers(const GridSearch& search, const GroupTile& tile);

// By lane, the scale that leaves the smallest error of those that are fitted to the levels on `search.widths` scales
// around the inverse of `unit`, of both signs where scales may be turned, and on neighbours of the best. `unit` puts
// the largest weight on search.reach, and is 0 where all weights are as good as 0; so is the scale then. Sets all of
// `fits` but the zero point and the totals that do not depend on levels; the sum of levels, which only a minimum asks
// for, is 0. A weight is rounded to the 256th part of a level of `unit`, which mostly moves a fitted scale by
// less than f16 rounds it.
void fit_in_integers(const GridSearch& search, const GroupTile& tile, const GroupLanes& unit, GroupFits& fits);

}  // namespace retort
