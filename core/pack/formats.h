// The rows of packed_formats(), one or two per file.
#pragma once

#include "core/pack/packed_format.h"

namespace retort {

extern const PackedFormat kNativeFormat;                 // native.cc
extern const PackedFormat kQ8Format, kQ4Format;          // blocks_format.cc
extern const PackedFormat kGptqV1Format, kGptqV2Format;  // gptq.cc
extern const PackedFormat kAwqFormat;                    // awq.cc
extern const PackedFormat kMlxFormat;                    // mlx.cc
extern const PackedFormat kMatMulNBitsFormat;            // matmulnbits.cc

}  // namespace retort
