// How the graph uses weights, and in which layout they must lie for it. Weights are named by their Hugging Face
// tensor names; of an integer weight the parts carry the suffixes below.
//  contrib   linear weights: MatMulNBits; an embedding: GatherBlockQuantized on the same bytes
//  standard  linear weights: DequantizeLinear in blocks and MatMul, which ONNX Runtime fuses into MatMulNBits again;
//            an embedding: the bytes of its rows are looked up and unpacked by arithmetic
#pragma once

#include <map>
#include <string>

#include "core/arch/family.h"
#include "core/arch/model_config.h"
#include "core/pack/scheme.h"
#include "export/onnx/graph.h"

namespace retort {

enum class OnnxOperators : uint8_t { kContrib, kStandard };

inline constexpr const char* kOnnxCodes = ".codes";
inline constexpr const char* kOnnxScales = ".scales";
inline constexpr const char* kOnnxZeros = ".zeros";
// The codes of an embedding once more, at the same place in the data file, as rows of bytes.
inline constexpr const char* kOnnxRows = ".rows";

// The scheme in which each tensor of expected_tensors(config) is stored, by name.
using OnnxWeights = std::map<std::string, Scheme>;

// The packed format of an integer weight: "matmulnbits" or "dequantizelinear".
const char* onnx_layout(OnnxOperators operators, Role role);

class OnnxWeightNodes {
 public:
  // `accuracy_level` is that of every MatMulNBits. All references must outlive the object.
  OnnxWeightNodes(OnnxGraph& graph, const ModelConfig& config, const OnnxWeights& weights, OnnxOperators operators,
                  int64_t accuracy_level)
      : g_(graph), c_(config), weights_(weights), operators_(operators), accuracy_level_(accuracy_level) {}

  OnnxValue dense(const std::string& name) const;                       // as f32
  OnnxValue linear(const std::string& name, const OnnxValue& x) const;  // x * weight^T, plus the bias if there is one
  OnnxValue rows(const std::string& name, const OnnxValue& ids) const;  // of an embedding

 private:
  OnnxValue block_product(const std::string& name, const OnnxValue& x, const OnnxValue& bias) const;
  OnnxValue standard_weight(const std::string& name) const;
  OnnxValue gathered_blocks(const std::string& name, const OnnxValue& ids) const;
  OnnxValue decoded_rows(const std::string& name, const OnnxValue* ids) const;
  OnnxValue unpacked(const OnnxValue& packed, int bits, const std::vector<int64_t>& shape) const;
  OnnxValue first_columns(const OnnxValue& value, int64_t count) const;
  OnnxValue transposed(const OnnxValue& matrix) const;

  OnnxGraph& g_;
  const ModelConfig& c_;
  const OnnxWeights& weights_;
  OnnxOperators operators_;
  int64_t accuracy_level_;
};

}  // namespace retort
