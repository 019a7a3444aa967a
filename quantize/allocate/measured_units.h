// What a measurement of sensitivities (sensitivity.h) works on, known before it starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

// Windows of the text.
struct SensitivityWindows {
  int64_t count, length;
};
SensitivityWindows sensitivity_windows(const ModelConfig& config, const QuantizeOptions& options);

// Matrices that are rounded together: one role in neighbouring layers.
struct MeasuredUnit {
  int64_t layer;                // the first among them, config.layers for the head
  std::vector<size_t> members;  // indices of plans
};

struct MeasuredUnits {
  std::vector<MeasuredUnit> units;
  double passes = 0;  // through the whole model, for all of them
};

// Of the plans that have candidates. Each matrix is a unit where all passes together take some minutes on a few cores;
// in larger models the matrices of one role in 2, 4, 8, ... layers are.
MeasuredUnits measured_units(const ModelConfig& config, std::span<const TensorPlan> plans,
                             const SensitivityWindows& windows);

}  // namespace retort
