// AVX-512 with VNNI: one vector holds a row of a tile. Compiled with the flags of these instructions.
#include <immintrin.h>

#include "runtime/kernels/kernel.h"

namespace retort {
namespace {

using Floats = __m512;
using Ints = __m512i;
constexpr int kLanes = 16;
constexpr int kTokens = 8;        // sums and totals of eight tokens take half of the 32 registers
constexpr int32_t kInt8Bias = 0;  // what dot_wide has subtracted from each code

inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
inline Floats splat(float x) { return _mm512_set1_ps(x); }
inline Ints splat(int32_t x) { return _mm512_set1_epi32(x); }

inline Floats load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Floats load_bf16(const uint16_t* p) {
  const Ints wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Ints load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Ints widen(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Ints widen(const int8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Each byte (below 16) becomes the table's entry.
inline Ints look_up(const uint8_t* table, Ints x) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), x);
}
inline Ints low_nibbles(Ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(0xf)); }
inline Ints high_nibbles(Ints x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }

inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
// Products of the low 16 bits of each lane, signed.
inline Ints multiply_pairs(Ints a, Ints b) { return _mm512_madd_epi16(_mm512_and_si512(a, splat(0xffff)), b); }
// sum + the four products of each lane's bytes: codes below 16 (small) or of all 8 bits (wide), x signed.
inline Ints dot_small(Ints sum, Ints codes, Ints x) { return _mm512_dpbusd_epi32(sum, codes, x); }
inline Ints dot_wide(Ints sum, Ints codes, Ints x) { return _mm512_dpbusd_epi32(sum, codes, x); }

inline Floats to_float(Ints x) { return _mm512_cvtepi32_ps(x); }
inline Ints to_int(Floats x) { return _mm512_cvtps_epi32(x); }                // to the nearest, even in the middle
inline Floats select_max(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b when either is NaN
inline Floats select_min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
// x * 2^n, n in the low bits of `exponent`.
inline Floats multiply_by_power(Floats x, Floats exponent) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(exponent), 23)));
}

inline Ints magnitude_bits(Floats x) { return _mm512_and_si512(_mm512_castps_si512(x), splat(0x7fffffff)); }
inline Ints larger(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
inline float largest(Ints bits) { return __builtin_bit_cast(float, _mm512_reduce_max_epi32(bits)); }
inline int32_t sum_of(Ints x) { return _mm512_reduce_add_epi32(x); }
inline void store_codes(int8_t* p, Ints x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x)); }

}  // namespace
}  // namespace retort

#include "runtime/kernels/vector_inl.h"

namespace retort {

constinit const Kernel kAvx512VnniKernel = vector_kernel("avx512-vnni", kAvx512 | kAvx512Vnni);

}  // namespace retort
