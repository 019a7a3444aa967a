// The logits of a model, computed as plainly as they are defined, with no more of its weights in memory than a run of
// rows for each thread: what verify compares an artifact of any size with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

// [ids, vocabulary], in float32 with weights dequantized; `ids` are one sequence from its beginning.
std::vector<float> plain_logits(const ModelSource& source, std::span<const int32_t> ids, const Context& context);

}  // namespace retort
