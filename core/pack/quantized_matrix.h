// The content of one quantized matrix, free of any layout. Solvers make it, packed formats store it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/pack/scheme.h"

namespace retort {

// The integers behind the scales of super-blocks: scale of a group = scales[super-block] * scale_codes[group], and its
// minimum = minima[super-block] * minimum_codes[group], as float products.
struct SuperScales {
  std::vector<float> scales, minima;   // rows * cols / 256, each exactly an f16 value; minima empty when symmetric
  std::vector<int8_t> scale_codes;     // rows * groups
  std::vector<uint8_t> minimum_codes;  // rows * groups; empty when symmetric
};

// [rows = out features, cols = in features], row-major, columns in the order of the checkpoint.
// With one scale for the tensor, every row holds the same one.
// w[r][c] = scales[r][g] * level(codes[r][c]) - minima[r][g] with g = group_of(c); the level is codes[r][c] -
// zeros[r][g], or an entry of the scheme's code book. In an outlier column, w[r][c] is a value of its own instead.
struct QuantizedMatrix {
  Scheme scheme;  // never dense
  int64_t rows = 0, cols = 0;
  std::vector<uint8_t> codes;         // rows * cols
  std::vector<float> scales;          // rows * groups, each exactly an f16 value but in super-blocks
  std::vector<uint8_t> zeros;         // rows * groups; empty without zero points (all middle(), or 0 with minima)
  std::vector<int32_t> column_group;  // cols: the group of each column; empty: column / group size
  std::vector<float> minima = {};     // rows * groups with scheme.has_minima(), else empty
  SuperScales super = {};             // with scheme.is_super_block(): `scales` and `minima` follow from it
  // Columns that are kept in 16 bits, rising; only with plain integers (not in blocks). Their codes are the zero
  // points, so that what multiplies integers with scales gets 0 there and adds the values.
  std::vector<int32_t> outlier_columns = {};
  std::vector<float> outliers = {};  // rows * outlier_columns, each exactly an f16 value

  int64_t groups() const { return scheme.groups(cols); }
  int64_t group_of(int64_t col) const {
    return column_group.empty() ? col / scheme.group_size(cols) : column_group[static_cast<size_t>(col)];
  }
  uint8_t zero(int64_t row, int64_t group) const {
    if (scheme.has_minima()) return 0;
    return zeros.empty() ? scheme.middle() : zeros[static_cast<size_t>(row * groups() + group)];
  }
};

// Allocates everything that the scheme has in the right sizes, all zero.
QuantizedMatrix make_quantized(const Scheme& scheme, int64_t rows, int64_t cols);
// Computes scales and minima of rows [first, first + count) from `super`.
void expand_super_scales(QuantizedMatrix& matrix, int64_t first, int64_t count);
// Rows [first, first + count) as float32; out has count * cols elements.
void dequantize_rows(const QuantizedMatrix& matrix, int64_t first, int64_t count, std::span<float> out);
// Throws Error(subject) when sizes or codes are out of range: what was read from a file is not trusted.
void check_matrix(const QuantizedMatrix& matrix, std::string_view subject);
// The same, but for the rule that scales are f16 values: other programs' files hold bf16 and float32 ones too.
void check_integers(const QuantizedMatrix& matrix, std::string_view subject);
// The same matrix with rows in the order given: result row r is row order[r].
QuantizedMatrix permute_rows(const QuantizedMatrix& matrix, std::span<const int64_t> order);

}  // namespace retort
