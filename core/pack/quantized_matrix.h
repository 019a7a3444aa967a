// The content of one quantized matrix, free of any layout. Solvers make it, packed formats store it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/pack/scheme.h"

namespace retort {

// [rows = out features, cols = in features], row-major, columns in the order of the checkpoint.
// With one scale for the tensor, every row holds the same one.
// w[r][c] = scales[r][g] * (codes[r][c] - zeros[r][g]) with g = group_of(c).
struct QuantizedMatrix {
  Scheme scheme;  // never dense
  int64_t rows = 0, cols = 0;
  std::vector<uint8_t> codes;         // rows * cols
  std::vector<float> scales;          // rows * groups, each exactly an f16 value
  std::vector<uint8_t> zeros;         // rows * groups; empty when symmetric (all middle())
  std::vector<int32_t> column_group;  // cols: the group of each column; empty: column / group size

  int64_t groups() const { return scheme.groups(cols); }
  int64_t group_of(int64_t col) const {
    return column_group.empty() ? col / scheme.group_size(cols) : column_group[static_cast<size_t>(col)];
  }
  uint8_t zero(int64_t row, int64_t group) const {
    return zeros.empty() ? scheme.middle() : zeros[static_cast<size_t>(row * groups() + group)];
  }
};

// Allocates codes, scales (and zeros for asymmetric schemes) of the right sizes, all zero.
QuantizedMatrix make_quantized(const Scheme& scheme, int64_t rows, int64_t cols);
// Rows [first, first + count) as float32; out has count * cols elements.
void dequantize_rows(const QuantizedMatrix& matrix, int64_t first, int64_t count, std::span<float> out);
// Throws Error(subject) when sizes or codes are out of range: what was read from a file is not trusted.
void check_matrix(const QuantizedMatrix& matrix, std::string_view subject);
// The same matrix with rows in the order given: result row r is row order[r].
QuantizedMatrix permute_rows(const QuantizedMatrix& matrix, std::span<const int64_t> order);

}  // namespace retort
