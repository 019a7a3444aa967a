// How long a run lasts, and the learning rate along it.
#pragma once

#include <cstdint>

namespace retort {

// What ends a run, whichever comes first; 0: not limited by it. At least one is given.
struct Budget {
  int64_t steps = 0;
  double seconds = 0;
};

// The part of the budget that is used up: 0 at the start, 1 or more when the run is over. With seconds it follows
// the clock, and the run is then not reproducible.
double share_done(const Budget& budget, int64_t steps, double seconds);

// Linear warm-up over the first `warmup` of the run, then half a cosine down to 0 (arXiv:1608.03983, one period).
// `share` is taken in the middle of a step, so that neither the first step nor the last has rate 0.
double rate_factor(double share, double warmup);

}  // namespace retort
