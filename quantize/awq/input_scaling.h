// Activation-aware scaling of the columns of weights (AWQ, arXiv:2306.00978, section 3.2): W x = (W S)(S^-1 x). The
// columns of active inputs are made larger before they are rounded, and lose less of what they say.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/context.h"
#include "quantize/quantizer.h"

namespace retort {

// Which columns must have the same factor: columns of one channel. Empty: each column is its own channel.
using ColumnChannels = std::vector<int64_t>;

// The powers that a factor is made of, from 0 to 1.
struct ScalingExponents {
  double activity = 0, size = 0;
  bool operator==(const ScalingExponents&) const = default;
};

// Factors by column for matrices that share their input: s = a^i / w^j, a the mean absolute input of a channel and w
// how large its weights are beside the largest of their groups, on average over the rows; s at least 1e-4 and divided
// by sqrt(max s * min s). Columns of active inputs are made larger; so are, with j, those whose weights are small, for
// which the group's scale does not have to grow.
// The exponents are those with which rounding the matrices to nearest leaves the smallest error of their outputs,
// tr(E H E^T) with E = Q(W S) S^-1 - W and H the second moment of the inputs, summed over the group: the mean squared
// difference that the paper measures by running the matrices. They are found from (0, 0) in steps of 0.2, then 0.1,
// then 0.05 along either, as long as that helps, on at most 128 rows of each matrix.
// No factors (empty) where (0, 0) is best, or an error is not finite.
struct InputScaling {
  std::vector<float> factors;
  ScalingExponents exponents;
};
InputScaling find_input_scaling(std::span<const MatrixTask> group, const InputStatistics& statistics,
                                const ColumnChannels& channels, const SolverOptions& options, Context& context);

// Of the inputs divided by the factors.
InputStatistics divided_inputs(InputStatistics statistics, std::span<const float> factors);
// What an error in a column of W S costs: the mean square of its input, divided by the factors (empty: 1) twice;
// floored (importance.h).
std::vector<float> column_importance(const InputStatistics& statistics, std::span<const float> factors);

}  // namespace retort
