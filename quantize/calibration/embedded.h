// A calibration text at the entrance of the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/checkpoint/model_source.h"

namespace retort {

// ids [windows, tokens] -> their embeddings [.., tokens, hidden], float32 on the CPU, in shards of whole windows of
// about 1024 tokens. The table is read row by row: in float32 it may be larger than everything else of a run.
std::vector<at::Tensor> embedded_shards(const ModelSource& source, const at::Tensor& windows);

}  // namespace retort
