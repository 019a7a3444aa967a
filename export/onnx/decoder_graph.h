// The decoder as an ONNX graph with a key-value cache, in one of two operator sets.
// Inputs and outputs: input_ids, attention_mask and position_ids, [batch, ...] as transformers makes them, with the
// padding wherever the mask says; past_key_values.N.key and .value, present.N.key and .value; logits.
#pragma once

#include "core/arch/model_config.h"
#include "export/onnx/graph.h"
#include "export/onnx/weights.h"

namespace retort {

// Adds inputs, nodes and outputs; the caller adds the weights.
void build_onnx_decoder(OnnxGraph& graph, const ModelConfig& config, const OnnxWeightNodes& weights,
                        OnnxOperators operators);

}  // namespace retort
