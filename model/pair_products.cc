#include "model/pair_products.h"

#include <immintrin.h>

namespace retort {

bool has_pair_products() { return __builtin_cpu_supports("avx512bf16"); }

__attribute__((target("avx512f,avx512bf16"))) void add_pair_products(const PairedLeft& left, const uint32_t* right,
                                                                     int64_t pairs, float* sums, int64_t stride) {
  __m512 low[kPairRows], high[kPairRows];
  for (int64_t i = 0; i < kPairRows; ++i) {
    low[i] = _mm512_loadu_ps(sums + i * stride);
    high[i] = _mm512_loadu_ps(sums + i * stride + 16);
  }
  const uint32_t* rows = left.pairs;
  const int64_t row_stride = left.row_stride;
  for (int64_t pair = 0; pair < pairs; ++pair, rows += left.pair_stride, right += kPairPanel) {
    const auto first = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right));
    const auto second = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right + 16));
#pragma GCC unroll 8
    for (int64_t i = 0; i < kPairRows; ++i) {
      const auto row = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(rows[i * row_stride])));
      low[i] = _mm512_dpbf16_ps(low[i], row, first);
      high[i] = _mm512_dpbf16_ps(high[i], row, second);
    }
  }
  for (int64_t i = 0; i < kPairRows; ++i) {
    _mm512_storeu_ps(sums + i * stride, low[i]);
    _mm512_storeu_ps(sums + i * stride + 16, high[i]);
  }
}

}  // namespace retort
