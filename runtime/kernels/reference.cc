// The portable kernel: what the others must equal, bit for bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "core/base/dtype.h"
#include "runtime/kernels/kernel.h"

namespace retort {
namespace {

struct Lanes {
  float v[kTileRows] = {};

  void add(const Lanes& other) {
    for (int i = 0; i < kTileRows; ++i) v[i] += other.v[i];
  }
  float sum() const {
    Lanes s = *this;
    for (int half = kTileRows / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) s.v[i] += s.v[i + half];
    return s.v[0];
  }
};

template <typename Body>
void for_each_tile_and_token(const MatmulArgs& a, Body body) {
  for (int64_t tile = a.first_tile; tile < a.last_tile; ++tile) {
    const int64_t rows = std::min(kTileRows, a.weights.rows - tile * kTileRows);
    for (int64_t token = 0; token < a.inputs.tokens; ++token) {
      const Lanes total = body(tile, token);
      std::copy_n(total.v, rows, a.out + token * a.out_stride + tile * kTileRows);
    }
  }
}

// Decodes are inlined: a call per weight would be most of the time.
template <typename Weight, typename Decode>
void matmul_dense(const MatmulArgs& a, Decode decode) {
  const Tiles& w = a.weights;
  for_each_tile_and_token(a, [&](int64_t tile, int64_t token) {
    const auto* data = reinterpret_cast<const Weight*>(static_cast<const char*>(w.data) + tile * w.tile_bytes);
    const float* x = a.inputs.values + token * a.inputs.value_stride;
    Lanes total;
    for (int64_t first = 0; first < w.cols; first += kBlock) {
      Lanes block;
      for (int64_t c = first; c < std::min(w.cols, first + kBlock); ++c)
        for (int i = 0; i < kTileRows; ++i) block.v[i] += decode(data[c * kTileRows + i]) * x[c];
      total.add(block);
    }
    return total;
  });
}

uint8_t code_int8(const uint8_t* tile, int64_t row, int64_t col) {
  return tile[col / 4 * 4 * kTileRows + row * 4 + col % 4];
}
uint8_t code_int4(const uint8_t* tile, int64_t row, int64_t col) {
  const uint8_t pair = tile[col / 8 * 4 * kTileRows + row * 4 + col % 4];
  return col % 8 < 4 ? pair & 0xf : pair >> 4;
}

uint8_t code_iq4(const uint8_t* tile, int64_t row, int64_t col) { return kIq4Codes[code_int4(tile, row, col)]; }

// Integers of columns [first, first + count) times activations `x` of the same columns.
template <typename Code>
int32_t dot(Code code, const uint8_t* data, int64_t row, int64_t first, int64_t count, int32_t zero, const int8_t* x) {
  int32_t sum = 0;
  for (int64_t c = first; c < first + count; ++c) sum += (code(data, row, c) - zero) * x[c];
  return sum;
}

template <typename Code>
void matmul_integer(const MatmulArgs& a, Code code) {
  const Tiles& w = a.weights;
  const int64_t blocks = w.cols / kBlock, group_blocks = blocks / w.groups;
  for_each_tile_and_token(a, [&](int64_t tile, int64_t token) {
    const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * w.tile_bytes;
    const int8_t* x = a.inputs.codes + token * w.cols;
    const float* x_scales = a.inputs.scales + token * blocks;
    const int32_t* halves = a.inputs.negative_sums + token * blocks * 2;
    Lanes total;
    for (int64_t row = 0; row < kTileRows; ++row)
      for (int64_t group = 0; group < w.groups; ++group) {
        const int64_t at = (tile * w.groups + group) * kTileRows + row;
        const int32_t zero = w.zeros != nullptr ? w.zeros[at] : w.zero;
        float group_sum = 0, rest = 0;
        for (int64_t block = group * group_blocks; block < (group + 1) * group_blocks; ++block) {
          group_sum += static_cast<float>(dot(code, data, row, block * kBlock, kBlock, zero, x)) * x_scales[block];
          rest += static_cast<float>(halves[2 * block] + halves[2 * block + 1]) * x_scales[block];
        }
        total.v[row] += group_sum * f16_to_f32(w.scales[at]);
        if (w.minima != nullptr) total.v[row] += rest * f16_to_f32(w.minima[at]);
      }
    return total;
  });
}

// Groups in super-blocks; see kernel.h.
template <typename Code>
void matmul_super(const MatmulArgs& a, Code code) {
  constexpr int64_t kHalf = kBlock / 2;
  const Tiles& w = a.weights;
  const int64_t blocks = w.cols / kBlock, supers = w.cols / kSuperBlock, columns = w.cols / w.groups;
  for_each_tile_and_token(a, [&](int64_t tile, int64_t token) {
    const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * w.tile_bytes;
    const float* x_scales = a.inputs.scales + token * blocks;
    const int32_t* halves = a.inputs.negative_sums + token * blocks * 2;
    Lanes total;
    for (int64_t row = 0; row < kTileRows; ++row)
      for (int64_t group = 0; group < w.groups; ++group) {
        const int64_t first = group * columns, at = (tile * w.groups + group) * kTileRows + row;
        const int64_t super_at = (tile * supers + first / kSuperBlock) * kTileRows + row;
        const float x_scale = x_scales[first / kBlock];
        const int32_t sum = dot(code, data, row, first, columns, w.zero, a.inputs.codes + token * w.cols);
        total.v[row] += static_cast<float>(sum) * x_scale *
                        (f16_to_f32(w.scales[super_at]) * static_cast<float>(w.scale_codes[at]));
        if (w.minima == nullptr) continue;
        const int32_t negative = std::accumulate(halves + first / kHalf, halves + (first + columns) / kHalf, 0);
        total.v[row] += static_cast<float>(negative) * x_scale *
                        (f16_to_f32(w.minima[super_at]) * static_cast<float>(w.minimum_codes[at]));
      }
    return total;
  });
}

void matmul_int4(const MatmulArgs& a) { matmul_integer(a, code_int4); }
void matmul_int8(const MatmulArgs& a) { matmul_integer(a, code_int8); }
void matmul_iq4(const MatmulArgs& a) { matmul_integer(a, code_iq4); }
void matmul_super_int4(const MatmulArgs& a) { matmul_super(a, code_int4); }
void matmul_super_int8(const MatmulArgs& a) { matmul_super(a, code_int8); }
void matmul_super_iq4(const MatmulArgs& a) { matmul_super(a, code_iq4); }
void matmul_f16(const MatmulArgs& a) {
  matmul_dense<uint16_t>(a, [](uint16_t bits) { return f16_to_f32(bits); });
}
void matmul_bf16(const MatmulArgs& a) {
  matmul_dense<uint16_t>(a, [](uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); });
}
void matmul_f32(const MatmulArgs& a) {
  matmul_dense<float>(a, [](float value) { return value; });
}

void quantize(const QuantizeArgs& a) {
  for (int64_t b = 0; b < a.blocks; ++b) {
    const float* x = a.values + b * kBlock;
    uint32_t bits = 0;  // of the largest magnitude; NaN counts as larger than infinity
    for (int64_t i = 0; i < kBlock; ++i) bits = std::max(bits, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
    const float most = std::bit_cast<float>(bits);
    const bool usable = most >= kSmallestMagnitude && most <= kLargestMagnitude;
    int32_t* halves = a.negative_sums + 2 * b;
    halves[0] = halves[1] = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      const auto code = usable ? static_cast<int32_t>(std::nearbyint(x[i] * (127.0f / most))) : 0;
      a.codes[b * kBlock + i] = static_cast<int8_t>(code);
      halves[2 * i / kBlock] -= code;
    }
    a.scales[b] = most / 127.0f;
  }
}

// exp by x = n ln 2 + r, |r| <= ln 2 / 2, and the Taylor polynomial of degree 7 in r (relative error below 1e-8
// before rounding). Arguments are clamped to where the result is a normal number; NaN stays NaN.
float exp_reference(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  constexpr float kRounder = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504f + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts: n times the first is exact
  float p = 1.0f / 5040;
  for (const float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    p = p * r + coefficient;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}

void softmax(float* scores, int64_t first, int64_t last, int64_t size, float scale) {
  const float most = *std::max_element(scores + first, scores + last);
  Lanes sums;
  for (int64_t i = 0; i < size; ++i) {
    scores[i] = i >= first && i < last ? exp_reference(scale * (scores[i] - most)) : 0.0f;
    sums.v[i % kTileRows] += scores[i];
  }
  const float inverse = 1.0f / sums.sum();
  for (int64_t i = first; i < last; ++i) scores[i] *= inverse;
}

void rms_norm(const float* x, const float* weight, int64_t size, float eps, float* out) {
  Lanes squares;
  for (int64_t i = 0; i < size; ++i) squares.v[i % kTileRows] += x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(squares.sum() / static_cast<float>(size) + eps);
  for (int64_t i = 0; i < size; ++i) out[i] = x[i] * inverse * weight[i];
}

void silu_multiply(float* gate, const float* up, int64_t size) {
  for (int64_t i = 0; i < size; ++i) gate[i] = gate[i] / (1.0f + exp_reference(-gate[i])) * up[i];
}

}  // namespace

constinit const Kernel kReferenceKernel{
    .name = "reference",
    .features = 0,
    .matmul = {matmul_int4, matmul_int8, matmul_iq4, matmul_super_int4, matmul_super_int4, matmul_super_int4,
               matmul_super_int8, matmul_super_int8, matmul_super_iq4, matmul_f16, matmul_bf16, matmul_f32},
    .quantize = quantize,
    .softmax = softmax,
    .rms_norm = rms_norm,
    .silu_multiply = silu_multiply,
};

}  // namespace retort
