#include "quantize/gptq/paired_factor.h"

#include <ATen/ATen.h>

#include <cstring>

#include "core/base/isa.h"
#include "model/pair_products.h"

namespace retort {
namespace {

// Round to nearest, ties to even; the values are finite.
__attribute__((always_inline)) inline uint32_t bf16_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

RETORT_EACH_ISA void pair_rows(const float* one, const float* other, int64_t count, uint32_t* words) {
  for (int64_t i = 0; i < count; ++i) words[i] = bf16_of(one[i]) | bf16_of(other[i]) << 16;
}

RETORT_EACH_ISA void pair_neighbours(const float* values, int64_t pairs, uint32_t* words) {
  for (int64_t i = 0; i < pairs; ++i) words[i] = bf16_of(values[2 * i]) | bf16_of(values[2 * i + 1]) << 16;
}

uint32_t* words_of(at::Tensor& tensor) { return reinterpret_cast<uint32_t*>(tensor.mutable_data_ptr<int32_t>()); }
const uint32_t* words_of(const at::Tensor& tensor) {
  return reinterpret_cast<const uint32_t*>(tensor.const_data_ptr<int32_t>());
}

}  // namespace

PairedFactor make_paired(const at::Tensor& factor, const Context& context) {
  constexpr int64_t kPairs = 32;  // of rows, for one thread
  const int64_t n = factor.size(0);
  const float* values = factor.const_data_ptr<float>();
  PairedFactor paired{at::empty({n / 2, n}, at::kInt), at::empty({n, n / 2}, at::kInt)};
  uint32_t *rows = words_of(paired.by_rows), *columns = words_of(paired.by_columns);
  context.threads.run_ranges(n / 2, kPairs, [&](int64_t first, int64_t last) {
    for (int64_t pair = first; pair < last; ++pair) {
      const float* one = values + 2 * pair * n;
      pair_rows(one, one + n, n, rows + pair * n);
      pair_neighbours(one, n, columns + pair * n);  // two rows of n / 2 words
    }
  });
  return paired;
}

void PairedErrors::pack(const float* rows, int64_t count, int64_t width) {
  pairs_ = count / 2;
  width_ = width;
  panels_.resize(static_cast<size_t>(pairs_ * width));
  for (int64_t pair = 0; pair < pairs_; ++pair, rows += 2 * width)
    for (int64_t first = 0; first < width; first += kPairPanel)
      pair_rows(rows + first, rows + width + first, kPairPanel, panels_.data() + first * pairs_ + pair * kPairPanel);
}

namespace {

// sums[i] += sum over the pairs of left(i, pair) . right, for `count` rows i.
void add_products(PairedLeft left, int64_t count, const std::vector<uint32_t>& right, int64_t pairs, int64_t width,
                  float* sums) {
  for (int64_t i = 0; i < count; i += kPairRows, sums += kPairRows * width, left.pairs += kPairRows * left.row_stride)
    for (int64_t first = 0; first < width; first += kPairPanel)
      add_pair_products(left, right.data() + first * pairs, pairs, sums + first, width);
}

}  // namespace

void PairedErrors::feed(const PairedFactor& factor, int64_t begin, int64_t end, float* columns) const {
  const int64_t n = factor.by_rows.size(1);
  add_products({words_of(factor.by_rows) + begin / 2 * n + end, 1, n}, n - end, panels_, pairs_, width_,
               columns + end * width_);
}

void PairedErrors::multiply(const PairedFactor& factor, int64_t begin, float* products) const {
  const int64_t words = factor.by_columns.size(1);
  add_products({words_of(factor.by_columns) + begin / 2, words, 1}, begin + 2 * pairs_, panels_, pairs_, width_,
               products);
}

}  // namespace retort
