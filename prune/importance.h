// How much each layer and each FFN channel matters on a calibration text.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

struct Importance {
  // Mean over tokens of 1 - cos(hidden states before, after the layer): ShortGPT's block influence
  // (arXiv:2403.03853, equation 1).
  std::vector<double> layers;
  // [layer][channel]: Euclidean norm over all tokens of the input of the down projection, after Minitron
  // (arXiv:2407.14679, section 2.2).
  std::vector<std::vector<double>> channels;
};

// windows [count, length] of token ids. One layer's weights and the hidden states of all windows are in memory at a
// time. Layers are scored once, on the model as it is: scoring again after each removal kept the same layers of the
// quickstart's teacher at every depth from 5 to 2, and costs a pass for each layer removed.
Importance measure_importance(const ModelSource& source, const at::Tensor& windows, const Context& context);

// The `keep` highest scores, the lower index among equals; ascending.
std::vector<int64_t> most_important(std::span<const double> scores, int64_t keep);

}  // namespace retort
