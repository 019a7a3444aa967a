// The inner loops of the built-in backend, once per instruction set, behind one table.
//
// Every kernel computes the same bits: sums run in the order written here, without fused multiply-add. What a
// model says therefore does not depend on the CPU, on the number of threads or on how a prompt was cut.
// The files of this folder that are compiled for an instruction set see plain structs and raw pointers only.
// To add a kernel: one file that defines a row, one line in registry.cc; tests and bench loop over the table.
#pragma once

#include <cstdint>

namespace retort {

// A weight matrix [rows, cols] is stored in tiles of 16 rows, so that a row is a lane of a vector.
inline constexpr int64_t kTileRows = 16;
// Activations are quantized in blocks of 32 columns. Each group of an integer matrix is padded to whole blocks
// (codes and activations zero), and `cols` counts the padding.
inline constexpr int64_t kBlock = 32;

enum class WeightType : uint8_t { kInt4, kInt8, kIq4, kQ2K, kQ3K, kQ4K, kQ5K, kQ6K, kIq4Xs, kF16, kBF16, kF32 };
inline constexpr int kWeightTypes = 12;
// The types kQ2K to kIq4Xs share an f16 scale, and most an f16 minimum, in super-blocks of 256 columns of a row.
inline constexpr int64_t kSuperBlock = 256;
// The 4-bit codes of kIq4 and kIq4Xs stand for these numbers (ggml's kvalues_iq4nl + 128).
inline constexpr uint8_t kIq4Codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

// Borrowed. Rows past the last are zero in memory.
struct Tiles {
  const void* data;
  int64_t tile_bytes;  // from one tile to the next
  int64_t rows, cols;
  // Integer types only: w = scale * (code - zero) - minimum.
  int64_t groups;          // per row, each cols / groups columns
  const uint16_t* scales;  // f16 [tile][group][16]
  const uint8_t* zeros;    // [tile][group][16]; null: `zero` everywhere
  int32_t zero;
  const uint16_t* minima = nullptr;  // f16 [tile][group][16]; null: none
  // Super-blocks only; `scales` and `minima` are then [tile][cols / 256][16], and these multiply them.
  const int8_t* scale_codes = nullptr;     // [tile][group][16]
  const uint8_t* minimum_codes = nullptr;  // [tile][group][16]; null: no minima
};
// Layout of `data` within a tile:
//   f16, bf16, f32: [col][16 rows]
//   int8, and 5 and 6 bits: [col / 4][16 rows][4 cols] of u8
//   int4, and 2 and 3 bits: [col / 8][16 rows][4] of u8; the low nibbles hold columns 0..3 of the eight, the high
//   ones 4..7

// Activations of some tokens, row by row: as float32 for dense weights, quantized for integer ones.
struct Inputs {
  int64_t tokens;
  const float* values;  // [token][value_stride]
  int64_t value_stride;
  const int8_t* codes;           // [token][cols], -127 .. 127
  const float* scales;           // [token][cols / 32]
  const int32_t* negative_sums;  // [token][cols / 16]: minus the sum of each half of the block's codes
};

// out[token * out_stride + row] for the rows of tiles [first_tile, last_tile).
//
// Integer: per row, over groups g in order:  group = 0; for each block b of g, with exact integer sums,
//   group += float(sum of (code - zero) * activation code) * activation_scale[b];   then  total += group * scale[g].
//   With minima, then likewise: rest += float(negative sum) * activation_scale[b];  total += rest * minimum[g].
// Super-blocks: the same, with groups of 16 (q2_k, q3_k, q6_k) or 32 columns, each with the scale of its block of
//   activations, and with scale[g] = scale of the super-block * float(scale code), and so for the minimum.
// Dense: over blocks of 32 columns (the last one may be shorter): block = sum in order of weight * value, from 0;
//   then total += block.
struct MatmulArgs {
  Tiles weights;
  Inputs inputs;
  int64_t first_tile, last_tile;
  float* out;
  int64_t out_stride;
};

// For each block of 32: scale = max|x| / 127, code = round to even(x * (127 / max|x|)); the codes are zero where
// max|x| is outside these bounds (a scale that is not finite then carries NaN on).
inline constexpr float kSmallestMagnitude = 1e-30f, kLargestMagnitude = 3e38f;
struct QuantizeArgs {
  const float* values;
  int64_t blocks;
  int8_t* codes;
  float* scales;
  int32_t* negative_sums;  // two for each block
};

struct Kernel {
  const char* name;
  uint32_t features;  // CpuFeature bits it needs
  void (*matmul[kWeightTypes])(const MatmulArgs&);
  void (*quantize)(const QuantizeArgs&);
  // scores[i] = exp(scale * (scores[i] - max)) / sum for i in [first, last), 0 for the others of [0, size).
  // `size` is a multiple of 16, first < last.
  void (*softmax)(float* scores, int64_t first, int64_t last, int64_t size, float scale);
  // out = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(const float* x, const float* weight, int64_t size, float eps, float* out);
  // gate = silu(gate) * up
  void (*silu_multiply)(float* gate, const float* up, int64_t size);
};
// Sums over a vector (softmax, rms_norm) run in 16 lanes, element i in lane i mod 16, which are then added in
// halves: lane j += lane j + 8, then + 4, + 2, + 1. exp is exp_reference of reference.cc to the bit.

enum CpuFeature : uint32_t { kAvx2 = 1, kF16c = 2, kAvx512 = 4, kAvx512Vnni = 8 };  // kAvx512: F, BW, DQ and VL

extern const Kernel kReferenceKernel, kAvx2Kernel, kAvx512VnniKernel;

}  // namespace retort
