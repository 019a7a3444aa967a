// How far the outputs of quantized matrices are from those of the original ones, on the inputs of a calibration.
#pragma once

#include <span>

#include "quantize/quantizer.h"

namespace retort {

// Puts into the details of each solved matrix ||(W - Q) X||_F / ||W X||_F, from X X^T of the statistics, for rows
// spread evenly over it (all where there are no more than 32): "output_error", and as "output_error_rounded" what
// rounding these rows to nearest in the same scheme gives. Nothing where it is not finite.
void add_output_errors(std::span<const MatrixTask> tasks, const InputStatistics& statistics,
                       std::span<SolvedMatrix> solved, Context& context);

}  // namespace retort
