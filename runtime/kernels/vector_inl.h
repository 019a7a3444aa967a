// The kernels over vectors of kLanes lanes, for the file of an instruction set that includes this after defining
// Floats, Ints and the operations on them that avx512_vnni.cc lists.
// Everything has internal linkage: nothing compiled for one instruction set can be linked into another's code.
#pragma once

#include "runtime/kernels/kernel.h"

#ifdef __clang__
#define RETORT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define RETORT_UNROLL _Pragma("GCC unroll 16")
#endif

namespace retort {
namespace {

constexpr int64_t kHalf = kBlock / 2;
constexpr int kVectors = static_cast<int>(kTileRows) / kLanes;  // of a tile's 16 rows

template <int T>
inline void store_tile(const Floats (&total)[T][kVectors], const MatmulArgs& a, int64_t tile, int64_t token) {
  const int64_t left = a.weights.rows - tile * kTileRows;
  for (int t = 0; t < T; ++t) {
    float* out = a.out + (token + t) * a.out_stride + tile * kTileRows;
    if (left >= kTileRows) {
      for (int v = 0; v < kVectors; ++v) store(out + v * kLanes, total[t][v]);
      continue;
    }
    float rows[kTileRows];
    for (int v = 0; v < kVectors; ++v) store(rows + v * kLanes, total[t][v]);
    for (int64_t row = 0; row < left; ++row) out[row] = rows[row];
  }
}

// A step is eight columns: the codes of four of them in `first`, of the next four in `second`.
struct Int4Codes {
  static constexpr int64_t kStepBytes = 64;
  static constexpr int32_t kBias = 0;
  static void step(const uint8_t* p, int v, Ints& first, Ints& second) {
    const Ints pairs = load_codes(p + v * kLanes * 4);
    first = low_nibbles(pairs);
    second = high_nibbles(pairs);
  }
  static Ints dot(Ints sum, Ints codes, Ints x) { return dot_small(sum, codes, x); }
};

struct Int8Codes {
  static constexpr int64_t kStepBytes = 128;
  static constexpr int32_t kBias = kInt8Bias;
  static void step(const uint8_t* p, int v, Ints& first, Ints& second) {
    first = load_codes(p + v * kLanes * 4);
    second = load_codes(p + 64 + v * kLanes * 4);
  }
  static Ints dot(Ints sum, Ints codes, Ints x) { return dot_wide(sum, codes, x); }
};

// Nibbles that stand for the entries of a table of bytes.
struct Iq4Codes {
  static constexpr int64_t kStepBytes = 64;
  static constexpr int32_t kBias = kInt8Bias;
  static void step(const uint8_t* p, int v, Ints& first, Ints& second) {
    const Ints pairs = load_codes(p + v * kLanes * 4);
    first = look_up(kIq4Codes, low_nibbles(pairs));
    second = look_up(kIq4Codes, high_nibbles(pairs));
  }
  static Ints dot(Ints sum, Ints codes, Ints x) { return dot_wide(sum, codes, x); }
};

inline Ints load_quad(const int8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  return splat(quad);
}

// Columns of one scale, 16 or 32 of them: sum[t] = sum of (code - zero) * x.
template <typename Codes, int64_t columns, int T>
inline void integer_block(const uint8_t* codes, const int8_t* x, int64_t cols, const Ints (&zero)[kVectors],
                          const int32_t* negative_sums, Ints (&sum)[T][kVectors]) {
  RETORT_UNROLL
  for (int t = 0; t < T; ++t) {
    const int32_t* halves = negative_sums + t * (cols / kHalf);
    const Ints negative = splat(columns == kHalf ? halves[0] : halves[0] + halves[1]);
    for (int v = 0; v < kVectors; ++v) sum[t][v] = multiply_pairs(zero[v], negative);
  }
  RETORT_UNROLL
  for (int step = 0; step < columns / 8; ++step) {
    Ints first[kVectors], second[kVectors];
    for (int v = 0; v < kVectors; ++v) Codes::step(codes + step * Codes::kStepBytes, v, first[v], second[v]);
    RETORT_UNROLL
    for (int t = 0; t < T; ++t) {
      const Ints x_first = load_quad(x + t * cols + step * 8), x_second = load_quad(x + t * cols + step * 8 + 4);
      for (int v = 0; v < kVectors; ++v) {
        sum[t][v] = Codes::dot(sum[t][v], first[v], x_first);
        sum[t][v] = Codes::dot(sum[t][v], second[v], x_second);
      }
    }
  }
}

// Adds what the minima of one group of whole blocks take away.
template <int T>
inline void add_minima(const uint16_t* minima, const float* x_scales, const int32_t* negative_sums, int64_t blocks,
                       int64_t count, Floats (&total)[T][kVectors]) {
  RETORT_UNROLL
  for (int t = 0; t < T; ++t) {
    float rest = 0;
    for (int64_t b = 0; b < count; ++b) {
      const int32_t* halves = negative_sums + 2 * (t * blocks + b);
      rest += static_cast<float>(halves[0] + halves[1]) * x_scales[t * blocks + b];
    }
    for (int v = 0; v < kVectors; ++v) total[t][v] = total[t][v] + splat(rest) * load_f16(minima + v * kLanes);
  }
}

template <typename Codes, int T>
inline void integer_tile(const MatmulArgs& a, int64_t tile, int64_t token) {
  const Tiles& w = a.weights;
  const int64_t blocks = w.cols / kBlock, group_blocks = blocks / w.groups;
  const auto* codes = static_cast<const uint8_t*>(w.data) + tile * w.tile_bytes;
  const int8_t* x = a.inputs.codes + token * w.cols;
  const float* x_scales = a.inputs.scales + token * blocks;
  const int32_t* negative_sums = a.inputs.negative_sums + token * blocks * 2;
  Floats total[T][kVectors] = {};
  for (int64_t group = 0; group < w.groups; ++group) {
    const int64_t at = (tile * w.groups + group) * kTileRows;
    Ints zero[kVectors];
    for (int v = 0; v < kVectors; ++v)
      zero[v] = add(w.zeros != nullptr ? widen(w.zeros + at + v * kLanes) : splat(w.zero), splat(-Codes::kBias));
    Floats group_sum[T][kVectors] = {};
    for (int64_t block = 0; block < group_blocks; ++block) {
      Ints sum[T][kVectors];
      integer_block<Codes, kBlock>(codes, x, w.cols, zero, negative_sums, sum);
      RETORT_UNROLL
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < kVectors; ++v)
          group_sum[t][v] = group_sum[t][v] + to_float(sum[t][v]) * splat(x_scales[t * blocks]);
      codes += Codes::kStepBytes * (kBlock / 8);
      x += kBlock;
      ++x_scales;
      negative_sums += 2;
    }
    RETORT_UNROLL
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < kVectors; ++v)
        total[t][v] = total[t][v] + group_sum[t][v] * load_f16(w.scales + at + v * kLanes);
    if (w.minima != nullptr)
      add_minima<T>(w.minima + at, x_scales - group_blocks, negative_sums - 2 * group_blocks, blocks, group_blocks,
                    total);
  }
  store_tile<T>(total, a, tile, token);
}

// The f16 scales of a super-block times the integers of a group.
template <typename Integer>
inline Floats product_scale(const uint16_t* scales, const Integer* codes, int v) {
  return load_f16(scales + v * kLanes) * to_float(widen(codes + v * kLanes));
}

// Groups of 16 or 32 columns in super-blocks.
template <typename Codes, int64_t columns, bool minima, int T>
inline void super_tile(const MatmulArgs& a, int64_t tile, int64_t token) {
  const Tiles& w = a.weights;
  const int64_t blocks = w.cols / kBlock, supers = w.cols / kSuperBlock;
  const auto* codes = static_cast<const uint8_t*>(w.data) + tile * w.tile_bytes;
  const int8_t* x = a.inputs.codes + token * w.cols;
  const float* x_scales = a.inputs.scales + token * blocks;
  const int32_t* negative_sums = a.inputs.negative_sums + token * blocks * 2;
  Ints zero[kVectors];
  for (int v = 0; v < kVectors; ++v) zero[v] = splat(w.zero - Codes::kBias);
  Floats total[T][kVectors] = {};
  for (int64_t group = 0; group < w.groups; ++group) {
    const int64_t column = group * columns;
    const int64_t at = (tile * w.groups + group) * kTileRows;
    const int64_t super_at = (tile * supers + column / kSuperBlock) * kTileRows;
    Ints sum[T][kVectors];
    integer_block<Codes, columns>(codes, x + column, w.cols, zero, negative_sums + column / kHalf, sum);
    RETORT_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const Floats scale = product_scale(w.scales + super_at, w.scale_codes + at, v);
      RETORT_UNROLL
      for (int t = 0; t < T; ++t)
        total[t][v] = total[t][v] + to_float(sum[t][v]) * splat(x_scales[t * blocks + column / kBlock]) * scale;
      if constexpr (minima) {
        const Floats minimum = product_scale(w.minima + super_at, w.minimum_codes + at, v);
        RETORT_UNROLL
        for (int t = 0; t < T; ++t) {
          const int32_t* halves = negative_sums + t * blocks * 2 + column / kHalf;
          const int32_t negative = columns == kHalf ? halves[0] : halves[0] + halves[1];
          const float rest = static_cast<float>(negative) * x_scales[t * blocks + column / kBlock];
          total[t][v] = total[t][v] + splat(rest) * minimum;
        }
      }
    }
    codes += Codes::kStepBytes * (columns / 8);
  }
  store_tile<T>(total, a, tile, token);
}

struct F16Weights {
  using Stored = uint16_t;
  static Floats decode(const uint16_t* p) { return load_f16(p); }
};
struct Bf16Weights {
  using Stored = uint16_t;
  static Floats decode(const uint16_t* p) { return load_bf16(p); }
};
struct F32Weights {
  using Stored = float;
  static Floats decode(const float* p) { return load(p); }
};

template <typename Weights, int T>
inline void dense_tile(const MatmulArgs& a, int64_t tile, int64_t token) {
  const Tiles& w = a.weights;
  const auto* data =
      reinterpret_cast<const typename Weights::Stored*>(static_cast<const char*>(w.data) + tile * w.tile_bytes);
  const int64_t stride = a.inputs.value_stride;
  const float* x = a.inputs.values + token * stride;
  Floats total[T][kVectors] = {};
  for (int64_t first = 0; first < w.cols; first += kBlock) {
    const int64_t last = first + kBlock < w.cols ? first + kBlock : w.cols;
    Floats sum[T][kVectors] = {};
    for (int64_t c = first; c < last; ++c) {
      Floats weight[kVectors];
      for (int v = 0; v < kVectors; ++v) weight[v] = Weights::decode(data + c * kTileRows + v * kLanes);
      RETORT_UNROLL
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < kVectors; ++v) sum[t][v] = sum[t][v] + weight[v] * splat(x[t * stride + c]);
    }
    RETORT_UNROLL
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < kVectors; ++v) total[t][v] = total[t][v] + sum[t][v];
  }
  store_tile<T>(total, a, tile, token);
}

// Names a tile function for the loops below.
template <typename Codes>
struct IntegerTile {
  template <int T>
  static void run(const MatmulArgs& a, int64_t tile, int64_t token) {
    integer_tile<Codes, T>(a, tile, token);
  }
};
template <typename Codes, int64_t columns, bool minima>
struct SuperTile {
  template <int T>
  static void run(const MatmulArgs& a, int64_t tile, int64_t token) {
    super_tile<Codes, columns, minima, T>(a, tile, token);
  }
};
template <typename Weights>
struct DenseTile {
  template <int T>
  static void run(const MatmulArgs& a, int64_t tile, int64_t token) {
    dense_tile<Weights, T>(a, tile, token);
  }
};

template <typename Tile>
void matmul(const MatmulArgs& a) {
  for (int64_t tile = a.first_tile; tile < a.last_tile; ++tile) {
    int64_t token = 0;
    for (; token + kTokens <= a.inputs.tokens; token += kTokens) Tile::template run<kTokens>(a, tile, token);
    if (kTokens > 4 && token + 4 <= a.inputs.tokens) Tile::template run<4>(a, tile, token), token += 4;
    if (token + 2 <= a.inputs.tokens) Tile::template run<2>(a, tile, token), token += 2;
    if (token < a.inputs.tokens) Tile::template run<1>(a, tile, token);
  }
}

void quantize(const QuantizeArgs& a) {
  constexpr int kParts = static_cast<int>(kBlock) / kLanes;
  for (int64_t b = 0; b < a.blocks; ++b) {
    const float* x = a.values + b * kBlock;
    Ints bits = magnitude_bits(load(x));
    for (int i = 1; i < kParts; ++i) bits = larger(bits, magnitude_bits(load(x + i * kLanes)));
    const float most = largest(bits);
    const bool usable = most >= kSmallestMagnitude && most <= kLargestMagnitude;
    Ints sums[2] = {splat(0), splat(0)};
    for (int i = 0; i < kParts; ++i) {
      const Ints codes = usable ? to_int(load(x + i * kLanes) * splat(127.0f / most)) : splat(0);
      store_codes(a.codes + b * kBlock + i * kLanes, codes);
      sums[2 * i / kParts] = add(sums[2 * i / kParts], codes);
    }
    a.scales[b] = most / 127.0f;
    for (int half = 0; half < 2; ++half) a.negative_sums[2 * b + half] = -sum_of(sums[half]);
  }
}

// See exp_reference in reference.cc.
inline Floats exponential(Floats x) {
  x = select_min(splat(88.0f), select_max(splat(-87.0f), x));
  const Floats rounder = splat(0x1.8p23f);
  const Floats shifted = x * splat(1.44269504f) + rounder;
  const Floats n = shifted - rounder;
  const Floats r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
  Floats p = splat(1.0f / 5040);
  p = p * r + splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  return multiply_by_power(p, shifted);
}

// Vectors at the end of an array: lanes from `count` on are zero, or are not stored.
inline Floats load_some(const float* p, int64_t count) {
  if (count >= kLanes) return load(p);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}

inline void store_some(float* p, int64_t count, Floats x) {
  if (count >= kLanes) return store(p, x);
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

// Sixteen running sums; see the end of kernel.h.
struct LaneSums {
  Floats part[kVectors] = {};

  // x holds the elements from `index`, a multiple of kLanes.
  void add(int64_t index, Floats x) {
    Floats& sum = part[index / kLanes % kVectors];
    sum = sum + x;
  }
  float sum() const {
    float lanes[kTileRows];
    for (int v = 0; v < kVectors; ++v) store(lanes + v * kLanes, part[v]);
    for (int half = kTileRows / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
  }
};

inline float largest_of(const float* x, int64_t size) {
  Floats most = load(x);
  for (int64_t i = kLanes; i < size; i += kLanes) most = select_max(most, load(x + i));
  float lanes[kLanes];
  store(lanes, most);
  for (int i = 1; i < kLanes; ++i) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
  return lanes[0];
}

// Writes `value` over what lies outside [first, last).
inline void fill_outside(float* x, int64_t first, int64_t last, int64_t size, float value) {
  for (int64_t i = 0; i < first; ++i) x[i] = value;
  for (int64_t i = last; i < size; ++i) x[i] = value;
}

void softmax(float* scores, int64_t first, int64_t last, int64_t size, float scale) {
  fill_outside(scores, first, last, size, scores[first]);
  const Floats most = splat(largest_of(scores, size));
  for (int64_t i = 0; i < size; i += kLanes) store(scores + i, exponential(splat(scale) * (load(scores + i) - most)));
  fill_outside(scores, first, last, size, 0);
  LaneSums sums;
  for (int64_t i = 0; i < size; i += kLanes) sums.add(i, load(scores + i));
  const Floats inverse = splat(1.0f / sums.sum());
  for (int64_t i = 0; i < size; i += kLanes) store(scores + i, load(scores + i) * inverse);
}

void rms_norm(const float* x, const float* weight, int64_t size, float eps, float* out) {
  LaneSums squares;
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats value = load_some(x + i, size - i);
    squares.add(i, value * value);
  }
  const Floats inverse = splat(1.0f / __builtin_sqrtf(squares.sum() / static_cast<float>(size) + eps));
  for (int64_t i = 0; i < size; i += kLanes)
    store_some(out + i, size - i, load_some(x + i, size - i) * inverse * load_some(weight + i, size - i));
}

void silu_multiply(float* gate, const float* up, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const Floats x = load_some(gate + i, size - i);
    store_some(gate + i, size - i, x / (splat(1.0f) + exponential(-x)) * load_some(up + i, size - i));
  }
}

constexpr Kernel vector_kernel(const char* name, uint32_t features) {
  return {.name = name,
          .features = features,
          .matmul = {matmul<IntegerTile<Int4Codes>>, matmul<IntegerTile<Int8Codes>>, matmul<IntegerTile<Iq4Codes>>,
                     matmul<SuperTile<Int4Codes, 16, true>>, matmul<SuperTile<Int4Codes, 16, false>>,
                     matmul<SuperTile<Int4Codes, 32, true>>, matmul<SuperTile<Int8Codes, 32, true>>,
                     matmul<SuperTile<Int8Codes, 16, false>>, matmul<SuperTile<Iq4Codes, 32, false>>,
                     matmul<DenseTile<F16Weights>>, matmul<DenseTile<Bf16Weights>>, matmul<DenseTile<F32Weights>>},
          .quantize = quantize,
          .softmax = softmax,
          .rms_norm = rms_norm,
          .silu_multiply = silu_multiply};
}

}  // namespace
}  // namespace retort
