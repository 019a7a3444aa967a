#include "export/onnx/weights.h"

#include "core/arch/family.h"
#include "core/pack/dequantizelinear.h"
#include "core/pack/matmulnbits.h"

namespace retort {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";
constexpr int64_t kLast = -1;

}  // namespace

const char* onnx_layout(OnnxOperators operators, Role role) {
  return operators == OnnxOperators::kContrib || role == Role::kEmbedding ? "matmulnbits" : "dequantizelinear";
}

OnnxValue OnnxWeightNodes::dense(const std::string& name) const {
  return *weights_.at(name).dense == DType::kF32 ? name : g_.cast(name, DType::kF32);
}

OnnxValue OnnxWeightNodes::transposed(const OnnxValue& matrix) const {
  return g_.node("Transpose", {matrix}, {{"perm", std::vector<int64_t>{1, 0}}});
}

OnnxValue OnnxWeightNodes::linear(const std::string& name, const OnnxValue& x) const {
  const std::string bias_name = name.substr(0, name.rfind('.')) + ".bias";
  const OnnxValue bias = weights_.contains(bias_name) ? dense(bias_name) : OnnxValue();
  const bool is_dense = weights_.at(name).is_dense();
  if (!is_dense && operators_ == OnnxOperators::kContrib) return block_product(name, x, bias);
  const OnnxValue weight = is_dense ? transposed(dense(name)) : standard_weight(name);
  const OnnxValue product = g_.node("MatMul", {x, weight});
  return bias.empty() ? product : g_.node("Add", {product, bias});
}

OnnxValue OnnxWeightNodes::block_product(const std::string& name, const OnnxValue& x, const OnnxValue& bias) const {
  const TensorRule& rule = *match_tensor(c_, name)->rule;
  const Scheme& scheme = weights_.at(name);
  const int64_t rows = size_of(rule.rows, c_), cols = size_of(rule.cols, c_);
  const MatMulNBitsLayout layout = matmulnbits_layout(scheme, cols);
  std::vector<OnnxValue> inputs{x, name + kOnnxCodes, name + kOnnxScales};
  if (!scheme.symmetric) inputs.push_back(name + kOnnxZeros);
  if (!bias.empty()) {
    inputs.resize(5);  // without zero points and the index of groups
    inputs.push_back(bias);
  }
  std::vector<OnnxAttribute> attributes{
      {"K", cols}, {"N", rows}, {"bits", int64_t{layout.bits}}, {"block_size", layout.block}};
  if (accuracy_level_ != 0) attributes.push_back({"accuracy_level", accuracy_level_});
  return g_.node("MatMulNBits", inputs, attributes, kMicrosoft);
}

// [in, out] as f32. A tied head uses the bytes of the embedding.
OnnxValue OnnxWeightNodes::standard_weight(const std::string& name) const {
  const TensorRule& rule = *match_tensor(c_, name)->rule;
  if (rule.role == Role::kEmbedding) return transposed(decoded_rows(name, nullptr));
  const Scheme& scheme = weights_.at(name);
  std::vector<OnnxValue> inputs{name + kOnnxCodes, name + kOnnxScales};
  if (!scheme.symmetric) inputs.push_back(name + kOnnxZeros);
  return g_.node("DequantizeLinear", inputs,
                 {{"axis", int64_t{0}}, {"block_size", dequantize_block(scheme, size_of(rule.cols, c_))}});
}

OnnxValue OnnxWeightNodes::rows(const std::string& name, const OnnxValue& ids) const {
  if (weights_.at(name).is_dense()) {
    const OnnxValue rows = g_.node("Gather", {name, ids});
    return *weights_.at(name).dense == DType::kF32 ? rows : g_.cast(rows, DType::kF32);
  }
  return operators_ == OnnxOperators::kContrib ? gathered_blocks(name, ids) : decoded_rows(name, &ids);
}

OnnxValue OnnxWeightNodes::gathered_blocks(const std::string& name, const OnnxValue& ids) const {
  const Scheme& scheme = weights_.at(name);
  const MatMulNBitsLayout layout = matmulnbits_layout(scheme, c_.hidden_size);
  std::vector<OnnxValue> inputs{name + kOnnxRows, ids, name + kOnnxScales};
  if (!scheme.symmetric) inputs.push_back(name + kOnnxZeros);
  const std::vector<OnnxAttribute> attributes{{"bits", int64_t{layout.bits}},
                                              {"block_size", layout.block},
                                              {"gather_axis", int64_t{0}},
                                              {"quantize_axis", int64_t{1}}};
  const OnnxValue rows = g_.node("GatherBlockQuantized", inputs, attributes, kMicrosoft);
  return layout.blocks * layout.block == c_.hidden_size ? rows : first_columns(rows, c_.hidden_size);
}

// Bytes of codes, scales and zero points of the rows `ids` (null: of all rows), decoded by arithmetic.
OnnxValue OnnxWeightNodes::decoded_rows(const std::string& name, const OnnxValue* ids) const {
  const Scheme& scheme = weights_.at(name);
  const MatMulNBitsLayout layout = matmulnbits_layout(scheme, c_.hidden_size);
  const auto chosen = [&](const char* part) { return ids ? g_.node("Gather", {name + part, *ids}) : name + part; };
  const auto shape = [&](std::vector<int64_t> tail) {
    tail.insert(tail.begin(), ids ? 2 : 1, 0);
    return tail;
  };
  OnnxValue zeros = g_.number(static_cast<float>(1 << (layout.bits - 1)));
  if (!scheme.symmetric) {
    const OnnxValue all = unpacked(chosen(kOnnxZeros), layout.bits, shape({-1}));
    zeros = g_.node("Unsqueeze", {first_columns(all, layout.blocks), g_.ints({kLast})});
  }
  const OnnxValue codes = unpacked(chosen(kOnnxCodes), layout.bits, shape({layout.blocks, layout.block}));
  const OnnxValue scales = g_.node("Unsqueeze", {chosen(kOnnxScales), g_.ints({kLast})});
  const OnnxValue values = g_.node("Mul", {g_.node("Sub", {codes, zeros}), scales});
  return first_columns(g_.node("Reshape", {values, g_.ints(shape({layout.blocks * layout.block}))}), c_.hidden_size);
}

// The values packed in bytes, low bits first, as floats of the given shape.
OnnxValue OnnxWeightNodes::unpacked(const OnnxValue& packed, int bits, const std::vector<int64_t>& shape) const {
  std::vector<OnnxValue> values;
  for (int shift = 0; shift < 8; shift += bits) {
    const OnnxValue shifted =
        shift == 0 ? packed : g_.node("Div", {packed, g_.bytes({static_cast<uint8_t>(1 << shift)})});
    const OnnxValue low = g_.node("BitwiseAnd", {shifted, g_.bytes({static_cast<uint8_t>((1 << bits) - 1)})});
    values.push_back(g_.node("Unsqueeze", {low, g_.ints({kLast})}));
  }
  return g_.cast(g_.node("Reshape", {g_.node("Concat", values, {{"axis", kLast}}), g_.ints(shape)}), DType::kF32);
}

OnnxValue OnnxWeightNodes::first_columns(const OnnxValue& value, int64_t count) const {
  return g_.node("Slice", {value, g_.ints({0}), g_.ints({count}), g_.ints({kLast})});
}

}  // namespace retort
