// Calibration text as the pruner and the calibrated quantizers take it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "core/checkpoint/model_source.h"

namespace retort {

// Token ids [windows, length], int64 on the CPU: the text at `path` (read_corpus), tokenized whole and cut into
// windows of `length` tokens (0: min(512, the model's context length)), of which at most `samples`, evenly spread over
// the text, are taken. Of a text much larger than what is taken, only `samples` evenly spread places are tokenized: a
// window begins with the first line near its place, or in a long line with a character. BOS, where the tokenizer adds
// it, is at the beginning of the text alone. A text shorter than one window and a length beyond the context are Errors
// of `operation`.
at::Tensor calibration_windows(const ModelSource& source, const std::string& path, int64_t samples, int64_t length,
                               std::string_view operation);

}  // namespace retort
