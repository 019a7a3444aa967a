// Columns whose weights stay in 16 bits beside the integers of the others: OWQ, arXiv:2306.02272, section 3.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/context.h"
#include "quantize/quantizer.h"

namespace retort {

// Names as task.outliers of each matrix of the group the `count` columns that lose most by rounding to nearest: by
// their squared errors in all matrices of the group, times their activity (the diagonal of the second moment of the
// inputs, or their mean squares; empty: all alike). Matrices that cannot be rounded have no say; if none can, none have
// outliers.
void choose_outliers(std::span<MatrixTask> group, int64_t count, std::span<const float> activity, GridRule rule,
                     Context& context);

// The matrix with 0 in its outlier columns, and none of them named. Every grid of plain integers has a 0, so these
// columns have no say in the scales, and their codes are the zero points.
MatrixTask without_outliers(const MatrixTask& task);

// Puts the outlier columns of `task` into the matrix that was solved without them. A weight that f16 cannot hold makes
// it one that cannot be quantized.
void keep_outliers(const MatrixTask& task, SolvedMatrix& solved, Context& context);

}  // namespace retort
