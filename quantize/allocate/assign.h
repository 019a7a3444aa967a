// --scheme auto: a type for each matrix, so that the model loses least within a size.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

// The types of options.types, or those of options.target, or those that GGUF files hold; smallest first. Unknown ones,
// those that the method does not make, and blocks of GGUF beside other schemes are usage Errors.
std::vector<Scheme> candidate_types(const QuantizeOptions& options);

// Bits of all tensors under --size: "4.5bpw" is bits per weight of `weights` weights; "700MiB" is the size of the
// result, of which overhead(size in bytes) at most are no tensors. Anything else is a usage Error.
uint64_t parse_budget(const std::string& size, uint64_t weights, const std::function<uint64_t(uint64_t)>& overhead);

// Gives each plan that has candidates one of them. The loss of a matrix in a type is a coefficient times the squared
// relative error that rounding to nearest leaves (of some of the rows, where there are many). Coefficients are measured
// on options.calibration (sensitivity.h); without a text they are the sum of squares of the weights, more for embedding
// and head. The sum of losses is least for the size (choose.h), whatever the number of threads; matrices that
// options.target makes one get one type. A size that even the smallest types exceed is an Error that names the smallest
// that can be kept. Returns what the report says.
Json assign_types(const ModelSource& source, std::vector<TensorPlan>& plans, const QuantizeOptions& options,
                  Context& context);

}  // namespace retort
