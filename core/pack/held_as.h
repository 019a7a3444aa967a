// What the layouts of other programs make of a scheme that they do not have: codes moved to other zero points, scales
// repeated for smaller groups. The values stay the same.
#pragma once

#include <cstdint>
#include <string>

#include "core/pack/quantized_matrix.h"

namespace retort {

// GGUF: the block type that holds the numbers of the scheme, its own or the smallest one with room for a code.
Scheme gguf_block(const Scheme& scheme);
// The scheme of the same numbers when their zero points have moved to the middle of that block's codes.
Scheme gguf_centred(const Scheme& scheme);
// MLX: groups that it has, the widest that fill those of the scheme.
Scheme mlx_scheme(const Scheme& scheme, int64_t cols);
// compressed-tensors: a block type is an integer scheme like any other, one scale for all that of each row.
Scheme compressed_tensors_scheme(Scheme scheme);

// Why the format cannot hold the matrix exactly, as a sentence; empty: it can. A matrix without codes and zero points
// stands for all of its scheme and shape.
std::string gguf_refuses(const QuantizedMatrix& matrix);
std::string mlx_refuses(const QuantizedMatrix& matrix);

}  // namespace retort
