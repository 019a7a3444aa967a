// What operators do, by ONNX's definitions (opset 21) and those of ONNX Runtime's own; only what `export` uses of them.
// An operator is a row of a table. Internal to export/verify.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "export/verify/onnx_array.h"

namespace retort {

using OnnxResults = std::vector<OnnxArray>;

struct OnnxOperator {
  std::string_view name;
  OnnxResults (*apply)(const OnnxCall& call);
  bool computes = false;  // it holds numbers; what others give is a recipe
};

std::span<const OnnxOperator> standard_operators();   // of the domain ""
std::span<const OnnxOperator> microsoft_operators();  // of "com.microsoft"

}  // namespace retort
