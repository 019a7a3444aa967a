// The operand layout of ONNX Runtime's com.microsoft.MatMulNBits.
#pragma once

#include <cstdint>

#include "core/pack/scheme.h"

namespace retort {

// Values of `bits` bits in blocks of `block` (a power of two, 16 to 256) along the input; the last block of a row
// may be padded. A group is one block or several with the same scale; 3-bit codes lie in 4 bits, 5-bit codes in 8.
struct MatMulNBitsLayout {
  int bits = 0;
  int64_t block = 0;   // 0: no block divides the group
  int64_t blocks = 0;  // per row
};

MatMulNBitsLayout matmulnbits_layout(const Scheme& scheme, int64_t cols);

}  // namespace retort
