// genai_config.json: what onnxruntime-genai wants to know of a model.
#pragma once

#include "core/checkpoint/model_source.h"
#include "export/onnx/weights.h"

namespace retort {

// Token ids and sampling come from generation_config.json where it says them. With
// GroupQueryAttention it may keep one buffer for the past and the present; what the graph of standard operators cannot
// say, the accuracy level, is an option of the session.
Json genai_config(const ModelSource& source, OnnxOperators operators, int64_t accuracy_level);

}  // namespace retort
