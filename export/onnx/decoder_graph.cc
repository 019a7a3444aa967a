#include "export/onnx/decoder_graph.h"

#include <cmath>
#include <limits>

#include "core/arch/family.h"
#include "core/pack/matmulnbits.h"

namespace retort {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";
constexpr int64_t kLast = -1;

class DecoderBuilder {
 public:
  DecoderBuilder(OnnxGraph& graph, const ModelConfig& config, const OnnxWeights& weights, int64_t accuracy_level)
      : g_(graph), c_(config), weights_(weights), accuracy_level_(accuracy_level) {}

  void build() {
    add_inputs();
    prepare_positions();
    g_.set_scope("embedding");
    OnnxValue hidden = embed(tensor_name(c_, Role::kEmbedding));
    for (int64_t layer = 0; layer < c_.layers; ++layer) {
      layer_ = layer;
      scope("attention");
      hidden = g_.node("Add", {hidden, attention(norm(Role::kAttentionNorm, hidden))});
      scope("ffn");
      hidden = g_.node("Add", {hidden, feed_forward(norm(Role::kFfnNorm, hidden))});
    }
    layer_ = -1;
    g_.set_scope("head");
    const Role head = c_.tied_embeddings ? Role::kEmbedding : Role::kHead;
    g_.output("logits", linear(head, norm(Role::kFinalNorm, hidden)), DType::kF32,
              {"batch", "sequence", c_.vocab_size});
    for (int64_t layer = 0; layer < c_.layers; ++layer)
      for (const bool key : {true, false})
        g_.output(cache_name("present", layer, key), present_[static_cast<size_t>(2 * layer + !key)], DType::kF32,
                  {"batch", c_.kv_heads, "total", c_.head_dim});
  }

 private:
  static std::string cache_name(const char* kind, int64_t layer, bool key) {
    return std::string(kind) + "." + std::to_string(layer) + (key ? ".key" : ".value");
  }
  void scope(const char* part) { g_.set_scope("layers." + std::to_string(layer_) + "/" + part); }

  void add_inputs() {
    ids_ = g_.input("input_ids", DType::kI64, {"batch", "sequence"});
    mask_ = g_.input("attention_mask", DType::kI64, {"batch", "total"});
    positions_ = g_.input("position_ids", DType::kI64, {"batch", "sequence"});
    for (int64_t layer = 0; layer < c_.layers; ++layer)
      for (const bool key : {true, false})
        past_.push_back(g_.input(cache_name("past_key_values", layer, key), DType::kF32,
                                 {"batch", c_.kv_heads, "past", c_.head_dim}));
  }

  // Angles of the rotary embedding and masks: once for all layers.
  void prepare_positions() {
    g_.set_scope("positions");
    const OnnxValue column = g_.node("Unsqueeze", {g_.cast(positions_, DType::kF32), g_.ints({1, 3})});
    const OnnxValue angles = g_.node("Mul", {column, g_.floats(rope_frequencies(c_))});  // [batch, 1, sequence, d/2]
    cos_ = g_.node("Cos", {angles});
    sin_ = g_.node("Sin", {angles});
    g_.set_scope("mask");
    sequence_ = size_of_axis(ids_, 1);
    const OnnxValue past = size_of_axis(past_.front(), 2);
    total_ = g_.node("Add", {past, sequence_});
    const OnnxValue zero = g_.integer(0), one = g_.integer(1), first = g_.ints({0});
    const OnnxValue begin = g_.node("Squeeze", {past, first}), end = g_.node("Squeeze", {total_, first});
    const OnnxValue queries = g_.node("Unsqueeze", {g_.node("Range", {begin, end, one}), g_.ints({1})});
    const OnnxValue keys = g_.node("Range", {zero, end, one});
    distance_ = g_.node("Sub", {queries, keys});  // [sequence, total]
    const OnnxValue causal = g_.node("GreaterOrEqual", {distance_, zero});
    const OnnxValue given = g_.node("Unsqueeze", {g_.cast(mask_, DType::kBool), g_.ints({1, 2})});
    visible_[0] = g_.node("And", {causal, given});  // [batch, 1, sequence, total]
    for (const int64_t window : c_.windows)
      if (!visible_.contains(window))
        visible_[window] = g_.node("And", {visible_[0], g_.node("Less", {distance_, g_.integer(window)})});
    g_.set_scope("shapes");
    scores_shape_ = g_.node("Concat", {g_.ints({0, c_.heads}), sequence_, g_.ints({-1})}, {{"axis", int64_t{0}}});
    grouped_shape_ = g_.node("Concat", {g_.ints({0, c_.kv_heads, -1}), total_}, {{"axis", int64_t{0}}});
  }

  // The size of one axis, as a tensor of shape [1].
  OnnxValue size_of_axis(const OnnxValue& value, int64_t axis) {
    return g_.node("Shape", {value}, {{"start", axis}, {"end", axis + 1}});
  }

  OnnxValue reshape(const OnnxValue& value, const std::vector<int64_t>& shape) {
    return g_.node("Reshape", {value, g_.ints(shape)});
  }

  std::string weight_name(Role role) const { return tensor_name(c_, role, layer_); }

  OnnxValue dense(const std::string& name) {
    const DType type = *weights_.at(name).dense;
    return type == DType::kF32 ? name : g_.cast(name, DType::kF32);
  }

  OnnxValue norm(Role role, const OnnxValue& x) {
    const OnnxValue mean =
        g_.node("ReduceMean", {g_.node("Mul", {x, x}), g_.ints({kLast})}, {{"keepdims", int64_t{1}}});
    const OnnxValue root = g_.node("Sqrt", {g_.node("Add", {mean, g_.number(static_cast<float>(c_.norm_eps))})});
    return g_.node("Mul", {g_.node("Div", {x, root}), dense(weight_name(role))});
  }

  OnnxValue linear(Role role, const OnnxValue& x) {
    const std::string name = weight_name(role), bias = name.substr(0, name.rfind('.')) + ".bias";
    const bool is_dense = weights_.at(name).is_dense();
    const OnnxValue product =
        is_dense ? g_.node("MatMul", {x, g_.node("Transpose", {dense(name)}, {{"perm", std::vector<int64_t>{1, 0}}})})
                 : integer_product(name, x);
    return weights_.contains(bias) ? g_.node("Add", {product, dense(bias)}) : product;
  }

  OnnxValue integer_product(const std::string& name, const OnnxValue& x) {
    const TensorRule& rule = *match_tensor(c_, name)->rule;
    const Scheme& scheme = weights_.at(name);
    const int64_t rows = size_of(rule.rows, c_), cols = size_of(rule.cols, c_);
    const MatMulNBitsLayout layout = matmulnbits_layout(scheme, cols);
    std::vector<OnnxValue> inputs{x, name + kOnnxCodes, name + kOnnxScales};
    if (!scheme.symmetric) inputs.push_back(name + kOnnxZeros);
    std::vector<OnnxAttribute> attributes{
        {"K", cols}, {"N", rows}, {"bits", int64_t{layout.bits}}, {"block_size", layout.block}};
    if (accuracy_level_ != 0) attributes.push_back({"accuracy_level", accuracy_level_});
    return g_.node("MatMulNBits", inputs, attributes, kMicrosoft);
  }

  OnnxValue embed(const std::string& name) {
    if (!weights_.at(name).is_dense()) return embed_integers(name);
    const OnnxValue rows = g_.node("Gather", {name, ids_});
    return *weights_.at(name).dense == DType::kF32 ? rows : g_.cast(rows, DType::kF32);
  }

  // Rows of codes, scales and zero points are looked up and only those are decoded.
  OnnxValue embed_integers(const std::string& name) {
    const Scheme& scheme = weights_.at(name);
    const MatMulNBitsLayout layout = matmulnbits_layout(scheme, c_.hidden_size);
    const OnnxValue scales = g_.node("Gather", {name + kOnnxScales, ids_});
    OnnxValue zeros = g_.number(static_cast<float>(1 << (layout.bits - 1)));
    if (!scheme.symmetric) {
      const OnnxValue all = unpack(g_.node("Gather", {name + kOnnxZeros, ids_}), layout.bits, {0, 0, -1});
      zeros = g_.node("Unsqueeze", {cut(all, layout.blocks), g_.ints({kLast})});
    }
    const OnnxValue codes =
        unpack(g_.node("Gather", {name + kOnnxCodes, ids_}), layout.bits, {0, 0, layout.blocks, layout.block});
    const OnnxValue values =
        g_.node("Mul", {g_.node("Sub", {codes, zeros}), g_.node("Unsqueeze", {scales, g_.ints({kLast})})});
    return cut(reshape(values, {0, 0, layout.blocks * layout.block}), c_.hidden_size);
  }

  // The values packed in bytes, low bits first, as floats of the given shape.
  OnnxValue unpack(const OnnxValue& packed, int bits, const std::vector<int64_t>& shape) {
    std::vector<OnnxValue> values;
    for (int shift = 0; shift < 8; shift += bits) {
      const OnnxValue low =
          g_.node("BitwiseAnd", {shifted(packed, shift), g_.bytes({static_cast<uint8_t>((1 << bits) - 1)})});
      values.push_back(g_.node("Unsqueeze", {low, g_.ints({kLast})}));
    }
    return g_.cast(reshape(g_.node("Concat", values, {{"axis", kLast}}), shape), DType::kF32);
  }

  OnnxValue shifted(const OnnxValue& packed, int bits) {
    if (bits == 0) return packed;
    return g_.node("Div", {packed, g_.bytes({static_cast<uint8_t>(1 << bits)})});
  }

  // The first `size` elements of the last axis.
  OnnxValue cut(const OnnxValue& value, int64_t size) {
    return g_.node("Slice", {value, g_.ints({0}), g_.ints({size}), g_.ints({kLast})});
  }

  // [batch, sequence, n * d] -> [batch, n, sequence, d]
  OnnxValue to_heads(const OnnxValue& x, int64_t count, std::optional<Role> norm_role) {
    OnnxValue heads = reshape(x, {0, 0, count, c_.head_dim});
    if (norm_role) heads = norm(*norm_role, heads);
    return swap_heads(heads);
  }
  OnnxValue swap_heads(const OnnxValue& x) {
    return g_.node("Transpose", {x}, {{"perm", std::vector<int64_t>{0, 2, 1, 3}}});
  }

  OnnxValue rotate(const OnnxValue& x) {
    const auto half = g_.split(x, kLast, 2);
    const OnnxValue low = g_.node("Sub", {g_.node("Mul", {half[0], cos_}), g_.node("Mul", {half[1], sin_})});
    const OnnxValue high = g_.node("Add", {g_.node("Mul", {half[1], cos_}), g_.node("Mul", {half[0], sin_})});
    return g_.node("Concat", {low, high}, {{"axis", kLast}});
  }

  // The past and the new keys or values, [batch, kv heads, total, d].
  OnnxValue with_past(bool key, const OnnxValue& fresh) {
    const OnnxValue& past = past_[static_cast<size_t>(2 * layer_ + !key)];
    return present_.emplace_back(g_.node("Concat", {past, fresh}, {{"axis", int64_t{2}}}));
  }

  // Queries of one key-value head are stacked along the sequence, so that no key is copied for them.
  OnnxValue attention(const OnnxValue& x) {
    const auto norm_role = [&](Role role) { return c_.family->qk_norm ? std::optional(role) : std::nullopt; };
    const OnnxValue queries = rotate(to_heads(linear(Role::kQuery, x), c_.heads, norm_role(Role::kQueryNorm)));
    const OnnxValue keys =
        with_past(true, rotate(to_heads(linear(Role::kKey, x), c_.kv_heads, norm_role(Role::kKeyNorm))));
    const OnnxValue values = with_past(false, to_heads(linear(Role::kValue, x), c_.kv_heads, std::nullopt));
    const OnnxValue scaled = g_.node("Mul", {queries, g_.number(1.0f / std::sqrt(static_cast<float>(c_.head_dim)))});
    const OnnxValue stacked = reshape(scaled, {0, c_.kv_heads, -1, c_.head_dim});
    const OnnxValue across = g_.node("Transpose", {keys}, {{"perm", std::vector<int64_t>{0, 1, 3, 2}}});
    const OnnxValue scores = g_.node("Reshape", {g_.node("MatMul", {stacked, across}), scores_shape_});
    const OnnxValue& visible = visible_.at(c_.windows[static_cast<size_t>(layer_)]);
    const OnnxValue masked = g_.node("Where", {visible, scores, g_.number(std::numeric_limits<float>::lowest())});
    const OnnxValue weights = g_.node("Softmax", {masked}, {{"axis", kLast}});
    const OnnxValue mixed = g_.node("MatMul", {g_.node("Reshape", {weights, grouped_shape_}), values});
    const OnnxValue heads = swap_heads(reshape(mixed, {0, c_.heads, -1, c_.head_dim}));
    return linear(Role::kAttentionOutput, reshape(heads, {0, 0, c_.query_size()}));
  }

  OnnxValue feed_forward(const OnnxValue& x) {
    const OnnxValue gate = linear(Role::kGate, x);
    const OnnxValue silu = g_.node("Mul", {gate, g_.node("Sigmoid", {gate})});
    return linear(Role::kDown, g_.node("Mul", {silu, linear(Role::kUp, x)}));
  }

  OnnxGraph& g_;
  const ModelConfig& c_;
  const OnnxWeights& weights_;
  int64_t accuracy_level_, layer_ = -1;
  OnnxValue ids_, mask_, positions_, cos_, sin_, sequence_, total_, distance_, scores_shape_, grouped_shape_;
  std::map<int64_t, OnnxValue> visible_;   // by window
  std::vector<OnnxValue> past_, present_;  // key and value of each layer
};

}  // namespace

void build_onnx_decoder(OnnxGraph& graph, const ModelConfig& config, const OnnxWeights& weights,
                        int64_t accuracy_level) {
  DecoderBuilder(graph, config, weights, accuracy_level).build();
}

}  // namespace retort
