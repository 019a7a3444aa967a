// Matrices that should give other outputs than their own.
#pragma once

#include <span>
#include <vector>

#include "core/base/context.h"
#include "quantize/quantizer.h"

namespace retort {

// Of each matrix, one with the weights W + missing H^-1 (InputStatistics::missing, H damped as by gptq): what gives the
// least squared error to the outputs wanted, before anything is rounded. The tasks as they are where nothing is
// missing, or H has no factor, or the result is not finite.
std::vector<MatrixTask> aimed(std::span<const MatrixTask> group, const InputStatistics& statistics,
                              const SolverOptions& options, const Context& context);

}  // namespace retort
