// The last step in quality: what a quantized model leaves free is trained against the float model's distribution.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

// A tensor of the model between its solution and the artifact.
struct SolvedTensor {
  const TensorPlan* plan;
  SolvedMatrix solved = {};  // of what the plan quantizes
  // Of a vector (norm, bias) that is not as the checkpoint has it: its values, as they will be stored, and who says so.
  std::vector<float> values = {};
  std::string changed_by = {};
};

// Scales, minima, norms and biases, and with options.learn_rounding codes too, follow AdamW on
// KL(float model || quantized model) per token over windows of the calibration text, through the whole model; the loss
// is always that of the numbers that the artifact will hold. First options.learn_rounding steps with the codes, then
// options.tune_scales without. The result is what was there before where that is closer to the float model on windows
// kept aside.
// An interrupted run continues from what it left in `state`, to the same bytes.
// Returns what was done, for the report. `tensors`: all of the model.
Json tune(const ModelSource& source, std::span<SolvedTensor> tensors, const QuantizeOptions& options,
          const std::filesystem::path& state, Context& context);

inline bool tunes(const QuantizeOptions& options) { return options.tune_scales > 0 || options.learn_rounding > 0; }
// Before any work: refuses options and a --memory that tuning cannot keep. The whole model is in memory.
void check_tuning(const ModelSource& source, const QuantizeOptions& options, const Context& context);

}  // namespace retort
