// The logits of a model, computed as plainly as they are defined, with no more of its weights in memory than a run of
// rows for each thread, and what a reader of one tensor holds: what verify compares an artifact of any size with.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

// Rows [first, first + count) as float32; a vector has rows of one element. Called by several threads at once.
using RowReader = std::function<void(int64_t first, int64_t count, std::span<float> out)>;
// Of a tensor that the configuration asks for. No two readers are held at a time.
using TensorRows = std::function<RowReader(const ExpectedTensor&)>;

// [ids, vocabulary], in float32 with weights dequantized; `ids` are one sequence from its beginning.
std::vector<float> plain_logits(const ModelConfig& config, const TensorRows& rows, std::span<const int32_t> ids,
                                const Context& context);
std::vector<float> plain_logits(const ModelSource& source, std::span<const int32_t> ids, const Context& context);

}  // namespace retort
