#include "export/onnx/attention.h"

#include <cmath>
#include <limits>
#include <map>

namespace retort {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";
constexpr int64_t kLast = -1;
constexpr float kHidden = std::numeric_limits<float>::lowest();  // the score of a token that is not seen

class AttentionBase : public OnnxAttention {
 protected:
  AttentionBase(OnnxGraph& graph, const ModelConfig& config) : g_(graph), c_(config) {}

  // The size of one axis, as a tensor of shape [1].
  OnnxValue size_of_axis(const OnnxValue& value, int64_t axis) {
    return g_.node("Shape", {value}, {{"start", axis}, {"end", axis + 1}});
  }
  OnnxValue reshape(const OnnxValue& value, const std::vector<int64_t>& shape) {
    return g_.node("Reshape", {value, g_.ints(shape)});
  }
  // position * frequency, [batch, sequence, head_dim / 2] with `axes` of size one put in.
  OnnxValue angles(const OnnxValue& positions, const std::vector<int64_t>& axes) {
    const OnnxValue column = g_.node("Unsqueeze", {g_.cast(positions, DType::kF32), g_.ints(axes)});
    return g_.node("Mul", {column, frequencies(positions)});
  }
  // With the attention factor of the rotary embedding.
  OnnxValue scaled(const OnnxValue& turns) {
    if (c_.rope.attention_factor == 1.0) return turns;
    return g_.node("Mul", {turns, g_.number(static_cast<float>(c_.rope.attention_factor))});
  }
  void turn(const OnnxValue& angles) {
    g_.set_scope("turns");
    cos_ = scaled(g_.node("Cos", {angles}));
    sin_ = scaled(g_.node("Sin", {angles}));
  }

  OnnxGraph& g_;
  const ModelConfig& c_;
  OnnxValue cos_, sin_;

 private:
  // A pass whose positions reach beyond the original context has longrope's frequencies for long sequences.
  OnnxValue frequencies(const OnnxValue& positions) {
    g_.named_floats(kOnnxRopeFrequencies, rope_frequencies(c_));
    if (c_.rope.scaling != RopeScaling::kLongRope) return kOnnxRopeFrequencies;
    const int64_t original = c_.rope.original_context;
    g_.named_floats(kOnnxLongFrequencies, rope_frequencies(c_, original + 1));
    const OnnxValue last = g_.node("ReduceMax", {positions}, {{"keepdims", int64_t{0}}});
    const OnnxValue longer = g_.node("GreaterOrEqual", {last, g_.integer(original)});
    return g_.node("Where", {longer, kOnnxLongFrequencies, kOnnxRopeFrequencies});
  }
};

class StandardAttention : public AttentionBase {
 public:
  StandardAttention(OnnxGraph& graph, const ModelConfig& config) : AttentionBase(graph, config) {}

  void prepare(const OnnxPositions& inputs) override {
    g_.set_scope("positions");
    turn(angles(inputs.positions, {1, 3}));  // [batch, 1, sequence, d/2]
    g_.set_scope("mask");
    const OnnxValue sequence = size_of_axis(inputs.ids, 1), total = size_of_axis(inputs.mask, 1);
    const OnnxValue zero = g_.integer(0), one = g_.integer(1), first = g_.ints({0});
    const OnnxValue begin = g_.node("Squeeze", {g_.node("Sub", {total, sequence}), first});
    const OnnxValue end = g_.node("Squeeze", {total, first});
    const OnnxValue queries = g_.node("Unsqueeze", {g_.node("Range", {begin, end, one}), g_.ints({1})});
    const OnnxValue distance = g_.node("Sub", {queries, g_.node("Range", {zero, end, one})});  // [sequence, total]
    const OnnxValue given = g_.node("Unsqueeze", {g_.cast(inputs.mask, DType::kBool), g_.ints({1, 2})});
    visible_[0] = g_.node("And", {g_.node("GreaterOrEqual", {distance, zero}), given});  // [batch, 1, sequence, total]
    for (const int64_t window : c_.windows)
      if (!visible_.contains(window))
        visible_[window] = g_.node("And", {visible_[0], g_.node("Less", {distance, g_.integer(window)})});
    g_.set_scope("shapes");
    scores_shape_ = g_.node("Concat", {g_.ints({0, c_.heads}), sequence, g_.ints({-1})}, {{"axis", int64_t{0}}});
    grouped_shape_ = g_.node("Concat", {g_.ints({0, c_.kv_heads, -1}), total}, {{"axis", int64_t{0}}});
  }

  // Queries of one key-value head are stacked along the sequence, so that no key is copied for them.
  OnnxValue mix(int64_t layer, const OnnxValue& queries, const OnnxValue& keys, const OnnxValue& values) override {
    const OnnxValue all_keys = with_past(layer, true, rotate(to_heads(keys, c_.kv_heads)));
    const OnnxValue all_values = with_past(layer, false, to_heads(values, c_.kv_heads));
    const OnnxValue scale = g_.number(1.0f / std::sqrt(static_cast<float>(c_.head_dim)));
    const OnnxValue scaled = g_.node("Mul", {rotate(to_heads(queries, c_.heads)), scale});
    const OnnxValue stacked = reshape(scaled, {0, c_.kv_heads, -1, c_.head_dim});
    const OnnxValue across = g_.node("Transpose", {all_keys}, {{"perm", std::vector<int64_t>{0, 1, 3, 2}}});
    const OnnxValue scores = g_.node("Reshape", {g_.node("MatMul", {stacked, across}), scores_shape_});
    const OnnxValue& visible = visible_.at(c_.windows[static_cast<size_t>(layer)]);
    const OnnxValue masked = g_.node("Where", {visible, scores, g_.number(kHidden)});
    const OnnxValue weights = g_.node("Softmax", {masked}, {{"axis", kLast}});
    const OnnxValue mixed = g_.node("MatMul", {g_.node("Reshape", {weights, grouped_shape_}), all_values});
    return reshape(swap_heads(reshape(mixed, {0, c_.heads, -1, c_.head_dim})), {0, 0, c_.query_size()});
  }

 private:
  // [batch, sequence, n * d] -> [batch, n, sequence, d]
  OnnxValue to_heads(const OnnxValue& x, int64_t count) { return swap_heads(reshape(x, {0, 0, count, c_.head_dim})); }
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
  OnnxValue with_past(int64_t layer, bool key, const OnnxValue& fresh) {
    const std::string present = onnx_cache_name("present", layer, key);
    g_.node_as("Concat", {onnx_cache_name("past_key_values", layer, key), fresh}, {present}, {{"axis", int64_t{2}}});
    return present;
  }

  OnnxValue scores_shape_, grouped_shape_;
  std::map<int64_t, OnnxValue> visible_;  // by window
};

// The rotation stands outside the operator: its own needs a table of the whole context, and positions that are
// counted from the mask. Hidden tokens are a bias, which serves padding on either side; every row of a batch is then
// as long as the longest.
class GroupedAttention : public AttentionBase {
 public:
  GroupedAttention(OnnxGraph& graph, const ModelConfig& config) : AttentionBase(graph, config) {}

  void prepare(const OnnxPositions& inputs) override {
    g_.set_scope("positions");
    const OnnxValue table = reshape(angles(inputs.positions, {2}), {-1, c_.head_dim / 2});  // [batch * sequence, d/2]
    turn(table);
    const OnnxValue count = g_.node("Squeeze", {size_of_axis(table, 0), g_.ints({0})});
    const OnnxValue rows = g_.node("Range", {g_.integer(0), count, g_.integer(1)});
    row_of_token_ = g_.node("Reshape", {rows, g_.node("Shape", {inputs.ids})});
    g_.set_scope("mask");
    const OnnxValue batch = size_of_axis(inputs.mask, 0), total = size_of_axis(inputs.mask, 1);
    const OnnxValue total32 = g_.cast(total, DType::kI32);
    total_ = g_.node("Squeeze", {total32, g_.ints({0})});
    last_ = g_.node("Expand", {g_.node("Sub", {total32, g_.ints32({1})}), batch});
    const OnnxValue given = g_.node("Unsqueeze", {g_.cast(inputs.mask, DType::kBool), g_.ints({1, 2})});
    const OnnxValue bias = g_.node("Where", {given, g_.number(0), g_.number(kHidden)});
    const OnnxValue shape =
        g_.node("Concat", {batch, g_.ints({1}), size_of_axis(inputs.ids, 1), total}, {{"axis", int64_t{0}}});
    bias_ = g_.node("Expand", {bias, shape});
  }

  OnnxValue mix(int64_t layer, const OnnxValue& queries, const OnnxValue& keys, const OnnxValue& values) override {
    const auto cache = [&](const char* kind, bool key) { return onnx_cache_name(kind, layer, key); };
    const int64_t window = c_.windows[static_cast<size_t>(layer)];
    const OnnxValue out = "layers." + std::to_string(layer) + "/attention/mixed";
    g_.node_as("GroupQueryAttention",
               {rotate(queries), rotate(keys), values, cache("past_key_values", true), cache("past_key_values", false),
                last_, total_, "", "", "", bias_},
               {out, cache("present", true), cache("present", false)},
               {{"num_heads", c_.heads},
                {"kv_num_heads", c_.kv_heads},
                {"scale", 1.0f / std::sqrt(static_cast<float>(c_.head_dim))},
                {"local_window_size", window == 0 ? int64_t{-1} : window}},
               kMicrosoft);
    return out;
  }

 private:
  OnnxValue rotate(const OnnxValue& x) {
    return g_.node("RotaryEmbedding", {x, row_of_token_, cos_, sin_}, {}, kMicrosoft);
  }

  OnnxValue row_of_token_, total_, last_, bias_;
};

}  // namespace

std::string onnx_cache_name(const char* kind, int64_t layer, bool key) {
  return std::string(kind) + "." + std::to_string(layer) + (key ? ".key" : ".value");
}

bool uses_grouped_attention(const ModelConfig& config, OnnxOperators operators) {
  return operators == OnnxOperators::kContrib && config.head_dim % 8 == 0;
}

std::unique_ptr<OnnxAttention> make_onnx_attention(OnnxGraph& graph, const ModelConfig& config,
                                                   OnnxOperators operators) {
  if (uses_grouped_attention(config, operators)) return std::make_unique<GroupedAttention>(graph, config);
  return std::make_unique<StandardAttention>(graph, config);
}

}  // namespace retort
