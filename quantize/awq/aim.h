// Matrices that should give other outputs than their own.
#pragma once

#include <span>
#include <vector>

#include "core/base/context.h"
#include "quantize/quantizer.h"

namespace retort {

// Of each matrix, one with the weights W + missing H^-1 (InputStatistics::missing, H damped as by gptq): what gives the
// least squared error to the outputs wanted, before anything is rounded. A matrix as it is where nothing is missing, H
// has no factor, or the result is not finite. `missing` is empty afterwards: its memory holds the weights.
std::vector<MatrixTask> aimed(std::span<const MatrixTask> group, InputStatistics& statistics,
                              const SolverOptions& options, const Context& context);

}  // namespace retort
