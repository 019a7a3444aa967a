// How much the model's output suffers from the errors of one matrix.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

// For each plan that has candidates (0 for others): KL(float model || model in which this matrix alone is rounded), in
// nats per token on a few windows of options.calibration, divided by the square of the relative error of that rounding.
// KL grows with the square of a small error, so coefficient * error^2 is what another rounding of this matrix will
// cost. Rounded in the smallest candidate of 3 bits or more. The matrices of a unit (measured_units.h) are rounded
// together and share a coefficient; what was done is said in `report`, and how long it takes before it starts. The
// whole model is held in float32. Throws in a program without LibTorch.
std::vector<double> measure_sensitivity(const ModelSource& source, std::span<const TensorPlan> plans,
                                        const QuantizeOptions& options, Context& context, Json& report);

}  // namespace retort
