// The importance of the columns in one run: measured on a text, or from a file; stored where that is asked for.
#pragma once

#include <optional>
#include <span>

#include "quantize/imatrix_file.h"
#include "quantize/quantizer.h"

namespace retort {

// By options.imatrix or else options.calibration. An entry for a tensor of the plan that has another number of columns
// is an Error, and so is a file without entries for any of them.
ImportanceMatrix obtain_importance(const ModelSource& source, std::span<const TensorPlan> plans,
                                   const QuantizeOptions& options, Context& context);

// What is known of the inputs of the plan's tensor; empty: nothing.
std::optional<InputStatistics> input_statistics(const ImportanceMatrix& importance, const TensorPlan& plan);

// Importance as the grid search takes it: columns that were never active still count a little, or a group of them would
// have no scale. Empty when no column was active.
std::vector<float> floored_importance(std::vector<float> importance);

}  // namespace retort
