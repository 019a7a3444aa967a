// The operand layout of ONNX's own DequantizeLinear in blocks (opset 21), for a weight that a MatMul multiplies with.
#pragma once

#include <cstdint>

#include "core/pack/scheme.h"

namespace retort {

// Columns with one scale: the block of MatMulNBits where there is one, for ONNX Runtime then fuses the two operators
// into that; else the group, of whatever size.
int64_t dequantize_block(const Scheme& scheme, int64_t cols);

}  // namespace retort
