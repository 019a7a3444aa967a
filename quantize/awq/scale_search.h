// Scales by the error of the outputs (AWQ, arXiv:2306.00978, section 5.1, clips by it, each group on its own).
#pragma once

#include <span>

#include "core/base/context.h"
#include "quantize/quantizer.h"

namespace retort {

// Lowers tr(E H E^T) of a rounded matrix, E = Q(W) - W and H the second moment of its inputs, by the scales of its
// groups, one after the other with the other groups as they are, twice through each row. A group tries its scale times
// 0.80, 0.84, .. 1.20, then the best of these times 0.98 and 1.02, each weight at its nearest code, and for the best of
// these codes the scale that fits them best, and keeps what leaves the smallest error. Zero points stay. Blocks with
// minima or shared scales are left alone.
// Each shard is rows [64 k, 64 (k + 1)).
void search_scales(const MatrixTask& task, const InputStatistics& statistics, QuantizedMatrix& matrix,
                   const Context& context);

}  // namespace retort
