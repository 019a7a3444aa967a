// The second pass of the solver.
#pragma once

#include <cstdint>
#include <span>

#include "quantize/gptq/factor.h"
#include "quantize/gptq/kernels.h"

namespace retort {

// Goes over the columns of one row until no code changes, at most 16 times: each takes the code that is best while all
// others stay (cyclic coordinate descent; arXiv:2309.01885), an outlier the best value. Few codes change, so the
// gradient follows each change by itself. `grids` by group of `group` columns. Returns the row's objective e H e^T.
double descend(const HessianFactor& factor, const RowErrors& row, std::span<const Grid> grids, int64_t group,
               const Levels& levels, std::span<uint8_t> codes);

}  // namespace retort
