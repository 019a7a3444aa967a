// GPTQ for one matrix, given the factor of its inputs. Rows are independent of each other.
#pragma once

#include <cstdint>

#include "core/base/context.h"
#include "quantize/gptq/factor.h"
#include "quantize/matrix_task.h"

namespace retort {

struct GptqResult {
  QuantizedMatrix matrix;
  // tr(E H E^T) with E = W - Wq and the damped H: what the method makes small.
  double objective = 0;
  bool finite = true;  // false: weights or scales were not, and the matrix is of no use
};

// Columns are quantized in the order of the factor, in blocks of 128 with the feedback to later blocks applied once
// per block. Grids (grid.h) are fitted by unit, a group or the groups of a super-block together, and weight a column's
// squared error by its pivot, which is its share in the objective:
// - a unit takes its grids when its first column is reached, from weights that hold all the feedback up to there,
//   corrections made inside the current block included (the paper's own code leaves those out);
// - with activation order, and where a row or a tensor is one group, grids come from the original weights; groups
//   then still are runs of neighbouring columns of the matrix, so that every format can hold them.
// Columns in 16 bits (MatrixTask::outliers, the same for the whole group) must be the last in the factor's order: they
// take up the errors of all others and make none but that of f16 (OWQ, arXiv:2306.02272, section 3). Grids then come
// from the original weights, these columns left out.
// With factor.second_moment, a second pass follows (second_pass.h). The objective cannot grow.
// Each shard is 64 rows of a matrix, or 256 of a wide one.
// Where a matrix should give other outputs than W x (`missing`, as in InputStatistics), the weights to quantize are
// W + missing H^-1, which give the least squared error to these outputs.
std::vector<GptqResult> run_gptq(std::span<const MatrixTask> group, const HessianFactor& factor,
                                 std::span<const std::vector<float>> missing, const Context& context);

}  // namespace retort
