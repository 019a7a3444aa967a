// Runs the graph of an exported ONNX directory on a few tokens, node by node, with code that shares nothing with the
// writer: what the nodes compute, and not only what they hold, is then known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/arch/model_config.h"
#include "core/base/context.h"

namespace retort {

// A graph and the file of its data beside it.
struct OnnxFiles {
  std::string label;  // of the graph, in errors
  std::span<const std::byte> graph, data;
  std::function<void()> release = [] {};  // drops what was read of the data from memory
};

// The logits [ids, vocabulary] of a sequence that comes in two passes, the second with the cache of the first, behind
// tokens of padding. In doubles; a matrix of weights is decoded one element at a time where it is used. A graph that no
// program could run, or with operators that `export` does not use, is an Error that names the node. So is one that asks
// for more work or memory than the weights beside it have need of.
std::vector<float> evaluate_onnx(const std::filesystem::path& directory, const ModelConfig& config,
                                 std::span<const int32_t> ids, Context& context);
// As above. The fuzz target's entry.
std::vector<float> evaluate_onnx(const OnnxFiles& files, const ModelConfig& config, std::span<const int32_t> ids,
                                 Context& context);

}  // namespace retort
