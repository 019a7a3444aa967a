// Products with the factor of the solver by dot products of bfloat16 pairs (model/pair_products.h). Rounding the factor
// and the errors to 8 bits changes what is fed back by some tenths of a percent: less than a change of the calibration.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "core/base/context.h"
#include "model/pair_products.h"

namespace retort {

// F [n, n] twice: two rows in one word, [n / 2, n], and two columns, [n, n / 2].
struct PairedFactor {
  at::Tensor by_rows, by_columns;  // int32; undefined: there are none

  bool defined() const { return by_rows.defined(); }
  // Whether what the places [begin, end) missed can go to those behind them in pairs.
  bool feeds(int64_t begin, int64_t end) const { return defined() && begin % 2 == 0 && end % kPairRows == 0; }
};

// n is a multiple of 32.
PairedFactor make_paired(const at::Tensor& factor, const Context& context);

// Rows of float32 in pairs, as the products read them. `width`, the number of columns, is a multiple of 32.
class PairedErrors {
 public:
  // `rows`: [count, width], one after the other; count is even.
  void pack(const float* rows, int64_t count, int64_t width);

  // Where factor.feeds(begin, end).
  // columns[end + i] += sum over the rows k packed, of the places from `begin` on, of F[k][end + i] row k:
  // `columns` [n, width].
  void feed(const PairedFactor& factor, int64_t begin, int64_t end, float* columns) const;
  // products[i] += sum over the rows k packed, of the places from `begin` on, of F[i][k] row k, for i below their end.
  void multiply(const PairedFactor& factor, int64_t begin, float* products) const;

 private:
  int64_t pairs_ = 0, width_ = 0;
  std::vector<uint32_t> panels_;  // [width / 32, pairs, 32]
};

}  // namespace retort
