// Attention with rotary embeddings and a key-value cache, in each operator set.
#pragma once

#include <memory>

#include "core/arch/model_config.h"
#include "export/onnx/graph.h"
#include "export/onnx/weights.h"

namespace retort {

// The graph's inputs that attention needs.
struct OnnxPositions {
  OnnxValue ids;        // [batch, sequence], for its shape
  OnnxValue mask;       // [batch, past + sequence]: 0 hides a token from all others
  OnnxValue positions;  // [batch, sequence]
};

inline constexpr const char *kOnnxRopeFrequencies = "rope.frequencies", *kOnnxLongFrequencies = "rope.frequencies.long";

class OnnxAttention {
 public:
  virtual ~OnnxAttention() = default;
  // Everything that does not depend on the layer; call once, first.
  virtual void prepare(const OnnxPositions& inputs) = 0;
  // Queries [batch, sequence, query_size], keys and values [batch, sequence, kv_size], before the rotation.
  // `past` and `present` end in ".key" and ".value" of the cache's names. Gives [batch, sequence, query_size].
  virtual OnnxValue mix(int64_t layer, const OnnxValue& queries, const OnnxValue& keys, const OnnxValue& values) = 0;
};

std::string onnx_cache_name(const char* kind, int64_t layer, bool key);  // "present.3.key"

// Whether attention is one GroupQueryAttention (ONNX Runtime takes heads of whole eights only), or MatMul and Softmax.
bool uses_grouped_attention(const ModelConfig& config, OnnxOperators operators);
std::unique_ptr<OnnxAttention> make_onnx_attention(OnnxGraph& graph, const ModelConfig& config,
                                                   OnnxOperators operators);

}  // namespace retort
