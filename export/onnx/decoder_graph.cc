#include "export/onnx/decoder_graph.h"

#include "core/arch/family.h"
#include "export/onnx/attention.h"

namespace retort {
namespace {

constexpr int64_t kLast = -1;

class DecoderBuilder {
 public:
  DecoderBuilder(OnnxGraph& graph, const ModelConfig& config, const OnnxWeightNodes& weights, OnnxAttention& attention)
      : g_(graph), c_(config), weights_(weights), attention_(attention) {}

  void build() {
    add_inputs();
    attention_.prepare(inputs_);
    g_.set_scope("embedding");
    OnnxValue hidden = weights_.rows(weight_name(Role::kEmbedding), inputs_.ids);
    for (layer_ = 0; layer_ < c_.layers; ++layer_) {
      scope("attention");
      hidden = g_.node("Add", {hidden, attend(norm(Role::kAttentionNorm, hidden))});
      scope("ffn");
      hidden = g_.node("Add", {hidden, feed_forward(norm(Role::kFfnNorm, hidden))});
    }
    layer_ = -1;
    g_.set_scope("head");
    const Role head = c_.tied_embeddings ? Role::kEmbedding : Role::kHead;
    g_.output("logits", linear(head, norm(Role::kFinalNorm, hidden)), DType::kF32,
              {"batch", "sequence", c_.vocab_size});
    add_outputs();
  }

 private:
  void scope(const char* part) { g_.set_scope("layers." + std::to_string(layer_) + "/" + part); }
  std::string weight_name(Role role) const { return tensor_name(c_, role, layer_); }
  OnnxValue linear(Role role, const OnnxValue& x) { return weights_.linear(weight_name(role), x); }

  void add_inputs() {
    inputs_ = {g_.input("input_ids", DType::kI64, {"batch", "sequence"}),
               g_.input("attention_mask", DType::kI64, {"batch", "total"}),
               g_.input("position_ids", DType::kI64, {"batch", "sequence"})};
    for (int64_t layer = 0; layer < c_.layers; ++layer)
      for (const bool key : {true, false})
        g_.input(onnx_cache_name("past_key_values", layer, key), DType::kF32,
                 {"batch", c_.kv_heads, "past", c_.head_dim});
  }

  void add_outputs() {
    for (int64_t layer = 0; layer < c_.layers; ++layer)
      for (const bool key : {true, false}) {
        const std::string name = onnx_cache_name("present", layer, key);
        g_.output(name, name, DType::kF32, {"batch", c_.kv_heads, "present", c_.head_dim});
      }
  }

  // Written as ONNX Runtime's optimizer knows it: it makes one operator of it, and of a sum before it.
  OnnxValue norm(Role role, const OnnxValue& x) {
    const OnnxValue square = g_.node("Pow", {x, g_.number(2)});
    const OnnxValue mean = g_.node("ReduceMean", {square, g_.ints({kLast})}, {{"keepdims", int64_t{1}}});
    const OnnxValue root = g_.node("Sqrt", {g_.node("Add", {mean, g_.number(static_cast<float>(c_.norm_eps))})});
    return g_.node("Mul", {g_.node("Div", {x, root}), weights_.dense(weight_name(role))});
  }

  // Of every head by itself.
  OnnxValue head_norm(Role role, const OnnxValue& x, int64_t heads) {
    if (!c_.family->qk_norm) return x;
    const OnnxValue split = g_.node("Reshape", {x, g_.ints({0, 0, heads, c_.head_dim})});
    return g_.node("Reshape", {norm(role, split), g_.ints({0, 0, heads * c_.head_dim})});
  }

  OnnxValue attend(const OnnxValue& x) {
    const OnnxValue queries = head_norm(Role::kQueryNorm, linear(Role::kQuery, x), c_.heads);
    const OnnxValue keys = head_norm(Role::kKeyNorm, linear(Role::kKey, x), c_.kv_heads);
    return linear(Role::kAttentionOutput, attention_.mix(layer_, queries, keys, linear(Role::kValue, x)));
  }

  OnnxValue feed_forward(const OnnxValue& x) {
    const OnnxValue gate = linear(Role::kGate, x);
    const OnnxValue silu = g_.node("Mul", {gate, g_.node("Sigmoid", {gate})});
    return linear(Role::kDown, g_.node("Mul", {silu, linear(Role::kUp, x)}));
  }

  OnnxGraph& g_;
  const ModelConfig& c_;
  const OnnxWeightNodes& weights_;
  OnnxAttention& attention_;
  OnnxPositions inputs_;
  int64_t layer_ = -1;
};

}  // namespace

void build_onnx_decoder(OnnxGraph& graph, const ModelConfig& config, const OnnxWeightNodes& weights,
                        OnnxOperators operators) {
  const auto attention = make_onnx_attention(graph, config, operators);
  DecoderBuilder(graph, config, weights, *attention).build();
}

}  // namespace retort
