// Scaled columns without any work at run time: the inverse factors go into the operation before (AWQ,
// arXiv:2306.00978, section 3.2), where that gives the same model exactly.
#pragma once

#include <span>
#include <vector>

#include "quantize/awq/input_scaling.h"
#include "quantize/calibration/layer_walk.h"
#include "quantize/quantizer.h"

namespace retort {

// Matrices that read the same input, before they are solved.
struct InputGroup {
  const ModelSource& source;
  int64_t layer;
  Input input;
  std::span<const MatrixTask> tasks;
  InputStatistics& statistics;  // what is missing is used up
};

// Solves the group with scaled columns (find_input_scaling) and folds the inverse factors into `solved`, which holds
// the matrices of the layer that were solved before:
// - norm before q, k, v and norm before gate, up: its vector;
// - value before output: rows of the value matrix, and its bias. Query heads that share a key-value head weigh the
//   same values: their columns have the same factor;
// - up before down: rows of the up matrix, and its bias. Up and the activated gate are multiplied element by element.
// Nothing is scaled where a matrix of the group or the one before is not quantized, where one scale holds for a whole
// matrix, or where scaling does not pay.
std::vector<SolvedMatrix> solve_scaled(const Quantizer& quantizer, const InputGroup& group,
                                       const SolverOptions& options, SolvedLayer& solved, Context& context);

// Divides the rows of the value and up matrices that factors were folded into: until then a matrix of `layer` is as it
// was solved, which is what the matrices behind it were solved with.
void divide_rows(SolvedLayer& layer);

}  // namespace retort
