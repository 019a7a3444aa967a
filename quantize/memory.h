// How much memory a run will need, known before it starts.
#pragma once

#include <cstdint>
#include <span>

#include "quantize/quantizer.h"

namespace retort {

// An upper bound of the resident bytes: what the process has now, and the largest sum of what is alive together.
// Of the mapped checkpoint a few pages are counted: they are dropped as it is read.
uint64_t estimate_memory(const ModelSource& source, std::span<const TensorPlan> plans, const QuantizeOptions& options,
                         const Context& context);
// Throws when the estimate is above context.memory_limit; names the smallest limit that would do.
void require_memory(const ModelSource& source, std::span<const TensorPlan> plans, const QuantizeOptions& options,
                    const Context& context);

}  // namespace retort
