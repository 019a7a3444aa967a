// Products of bfloat16 matrices by the processor's dot products of pairs (AVX512-BF16): products are exact, sums are
// float32 and rounded once per addition.
#pragma once

#include <cstdint>

namespace retort {

constexpr int64_t kPairRows = 8, kPairPanel = 32;  // of a block: its sums are all in registers

bool has_pair_products();

// Two bfloat16 values that belong together lie in one word. Of row i, pair p is pairs[i * row_stride + p *
// pair_stride].
struct PairedLeft {
  const uint32_t* pairs;
  int64_t row_stride, pair_stride;
};

// sums[i * stride + j] += the sum over `pairs` pairs of left(i, p) . right[p * kPairPanel + j], for kPairRows rows i
// and kPairPanel columns j.
void add_pair_products(const PairedLeft& left, const uint32_t* right, int64_t pairs, float* sums, int64_t stride);

}  // namespace retort
