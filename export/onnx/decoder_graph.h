// The decoder as an ONNX graph with a key-value cache: standard operators, and MatMulNBits for integer weights.
// Weights are named by their Hugging Face tensor names; of an integer weight the parts carry the suffixes below.
#pragma once

#include <map>
#include <string>

#include "core/arch/model_config.h"
#include "core/pack/scheme.h"
#include "export/onnx/graph.h"

namespace retort {

inline constexpr const char* kOnnxCodes = ".codes";
inline constexpr const char* kOnnxScales = ".scales";
inline constexpr const char* kOnnxZeros = ".zeros";

// The scheme in which each tensor of expected_tensors(config) is stored, by name.
using OnnxWeights = std::map<std::string, Scheme>;

// Adds inputs, nodes and outputs; the caller adds the weights. `accuracy_level` is that of every MatMulNBits.
void build_onnx_decoder(OnnxGraph& graph, const ModelConfig& config, const OnnxWeights& weights,
                        int64_t accuracy_level);

}  // namespace retort
