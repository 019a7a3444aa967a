// AVX2 with F16C: two vectors hold a row of a tile. Compiled with the flags of these instructions.
#include <immintrin.h>

#include "runtime/kernels/kernel.h"

namespace retort {
namespace {

using Floats = __m256;
using Ints = __m256i;
constexpr int kLanes = 8;
constexpr int kTokens = 4;
constexpr int32_t kInt8Bias = 128;  // what dot_wide has subtracted from each code

inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
inline Floats splat(float x) { return _mm256_set1_ps(x); }
inline Ints splat(int32_t x) { return _mm256_set1_epi32(x); }

inline Floats load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Floats load_bf16(const uint16_t* p) {
  const Ints wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Ints load_codes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Ints widen(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline Ints widen(const int8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
// Each byte (below 16) becomes the table's entry.
inline Ints look_up(const uint8_t* table, Ints x) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), x);
}
inline Ints low_nibbles(Ints x) { return _mm256_and_si256(x, _mm256_set1_epi8(0xf)); }
inline Ints high_nibbles(Ints x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }

inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
// Products of the low 16 bits of each lane, signed.
inline Ints multiply_pairs(Ints a, Ints b) { return _mm256_madd_epi16(_mm256_and_si256(a, splat(0xffff)), b); }
// sum + the four products of each lane's bytes. The 16-bit sums of two products do not saturate: 2 * 15 * 127 with
// small codes; with wide ones the magnitude of code - 128 meets x with its sign, 2 * 128 * 127 at most.
inline Ints dot_small(Ints sum, Ints codes, Ints x) {
  return add(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
}
inline Ints dot_wide(Ints sum, Ints codes, Ints x) {
  const Ints centred = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
  return dot_small(sum, _mm256_abs_epi8(centred), _mm256_sign_epi8(x, centred));
}

inline Floats to_float(Ints x) { return _mm256_cvtepi32_ps(x); }
inline Ints to_int(Floats x) { return _mm256_cvtps_epi32(x); }                // to the nearest, even in the middle
inline Floats select_max(Floats a, Floats b) { return _mm256_max_ps(a, b); }  // b when either is NaN
inline Floats select_min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
// x * 2^n, n in the low bits of `exponent`.
inline Floats multiply_by_power(Floats x, Floats exponent) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(exponent), 23)));
}

inline Ints magnitude_bits(Floats x) { return _mm256_and_si256(_mm256_castps_si256(x), splat(0x7fffffff)); }
inline Ints larger(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
inline float largest(Ints bits) {
  int32_t lanes[kLanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), bits);
  for (int i = 1; i < kLanes; ++i) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
  return __builtin_bit_cast(float, lanes[0]);
}
inline int32_t sum_of(Ints x) {
  int32_t lanes[kLanes], sum = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), x);
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}
inline void store_codes(int8_t* p, Ints x) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

}  // namespace
}  // namespace retort

#include "runtime/kernels/vector_inl.h"

namespace retort {

constinit const Kernel kAvx2Kernel = vector_kernel("avx2", kAvx2 | kF16c);

}  // namespace retort
