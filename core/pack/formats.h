// The rows of packed_formats(), one or two per file.
#pragma once

#include "core/pack/packed_format.h"

namespace retort {

extern const PackedFormat kNativeFormat;                 // native.cc
std::vector<PackedFormat> block_formats();               // blocks_format.cc: a row for each of block_types()
extern const PackedFormat kGptqV1Format, kGptqV2Format;  // gptq.cc
extern const PackedFormat kAwqFormat;                    // awq.cc
extern const PackedFormat kMlxFormat;                    // mlx.cc
extern const PackedFormat kCompressedTensorsFormat;      // compressed_tensors.cc
extern const PackedFormat kMatMulNBitsFormat;            // matmulnbits.cc
extern const PackedFormat kDequantizeLinearFormat;       // dequantizelinear.cc

}  // namespace retort
