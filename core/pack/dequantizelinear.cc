// Layout: "DequantizeLinear" in the ONNX operator list, opset 21. The weight lies as [in, out]; values of 4 bits two to
// a byte in that order, low half first. A symmetric matrix is stored signed, code minus middle, and has no zero points.
#include "core/pack/dequantizelinear.h"

#include <algorithm>
#include <array>

#include "core/pack/bit_rows.h"
#include "core/pack/formats.h"
#include "core/pack/matmulnbits.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

// A [rows, cols] array of values of 4 or 8 bits, stored column by column.
class Columns {
 public:
  Columns(int64_t rows, int64_t cols, int bits) : rows_(rows), cols_(cols), bits_(bits) {}

  int64_t bytes() const { return (rows_ * cols_ * bits_ + 7) / 8; }
  // In bytes: by columns, or where a column ends inside a byte all together.
  std::vector<int64_t> shape() const {
    return rows_ * bits_ % 8 == 0 ? std::vector{cols_, rows_ * bits_ / 8} : std::vector{bytes()};
  }
  void put(std::span<std::byte> bytes, int64_t row, int64_t col, int value) const {
    const int64_t index = col * rows_ + row;
    if (bits_ == 8)
      bytes[static_cast<size_t>(index)] = static_cast<std::byte>(value);
    else
      bytes[static_cast<size_t>(index / 2)] |= static_cast<std::byte>((value & 15) << (index % 2 * 4));
  }
  int get(std::span<const std::byte> bytes, int64_t row, int64_t col, bool is_signed) const {
    const int64_t index = col * rows_ + row;
    int value = std::to_integer<int>(bytes[static_cast<size_t>(bits_ == 8 ? index : index / 2)]);
    if (bits_ == 4) value = value >> (index % 2 * 4) & 15;
    return is_signed && value >> (bits_ - 1) != 0 ? value - (1 << bits_) : value;
  }

  // All of `values`, [rows, cols], less `shift`, in tiles: one side of the copy is read across its lines.
  void put_all(std::span<std::byte> bytes, const uint8_t* values, int shift) const {
    const auto whole = reinterpret_cast<uint8_t*>(bytes.data());
    std::array<uint8_t, kTile> run;
    for (int64_t first = 0; first < rows_; first += kTile)
      for (int64_t col = 0; col < cols_; ++col) {
        const int64_t count = std::min(kTile, rows_ - first), at = (col * rows_ + first) * bits_;
        for (int64_t i = 0; i < count; ++i)
          run[static_cast<size_t>(i)] =
              static_cast<uint8_t>((values[(first + i) * cols_ + col] - shift) & ((1 << bits_) - 1));
        if (at % 8 == 0 && count * bits_ % 8 == 0)
          pack_row(std::span(run).first(static_cast<size_t>(count)), bits_, whole + at / 8);
        else
          for (int64_t i = 0; i < count; ++i) put(bytes, first + i, col, run[static_cast<size_t>(i)]);
      }
  }

  // Calls body(row, col) for all, in the same order.
  template <typename Body>
  void for_each(const Body& body) const {
    for (int64_t first = 0; first < rows_; first += kTile)
      for (int64_t col = 0; col < cols_; ++col)
        for (int64_t row = first; row < std::min(first + kTile, rows_); ++row) body(row, col);
  }

 private:
  static constexpr int64_t kTile = 64;
  int64_t rows_, cols_;
  int bits_;
};

struct Sizes {
  int64_t blocks, group_blocks;  // of a row; with one scale
  Columns codes, zeros;
};

Sizes sizes_of(const Scheme& scheme, int64_t rows, int64_t cols) {
  const int bits = scheme.bits <= 4 ? 4 : 8;
  const int64_t block = dequantize_block(scheme, cols), blocks = (cols + block - 1) / block;
  return {blocks, (scheme.group_size(cols) + block - 1) / block, {rows, cols, bits}, {rows, blocks, bits}};
}

std::string refuses(const QuantizedMatrix& m) {
  if (!m.scheme.is_plain()) return "DequantizeLinear holds integers times one scale";
  if (!groups_in_order(m)) return "columns in activation order have no place in DequantizeLinear";
  return {};
}

std::vector<PackedPart> pack(const QuantizedMatrix& m) {
  const auto [blocks, group_blocks, code_columns, zero_columns] = sizes_of(m.scheme, m.rows, m.cols);
  std::vector<std::byte> codes(static_cast<size_t>(code_columns.bytes())),
      zeros(static_cast<size_t>(m.scheme.symmetric ? 0 : zero_columns.bytes()));
  std::vector<float> scales(static_cast<size_t>(blocks * m.rows));
  const int shift = m.scheme.symmetric ? m.scheme.middle() : 0;
  code_columns.put_all(codes, m.codes.data(), shift);
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t r = 0; r < m.rows; ++r) {
      const int64_t group = b / group_blocks;
      scales[static_cast<size_t>(b * m.rows + r)] = m.scales[static_cast<size_t>(r * m.groups() + group)];
      if (!m.scheme.symmetric) zero_columns.put(zeros, r, b, m.zero(r, group));
    }
  std::vector<PackedPart> parts;
  parts.push_back(make_part("codes", DType::kU8, code_columns.shape(), codes));
  parts.push_back(make_part("scales", DType::kF32, {blocks, m.rows}, scales));
  if (!m.scheme.symmetric) parts.push_back(make_part("zeros", DType::kU8, zero_columns.shape(), zeros));
  return parts;
}

QuantizedMatrix unpack(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                       std::string_view subject) {
  if (!scheme.fits(cols)) fail("unpack", subject, "the group size does not divide the row length");
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  const auto [blocks, group_blocks, code_columns, zero_columns] = sizes_of(scheme, rows, cols);
  const int shift = scheme.symmetric ? scheme.middle() : 0;
  const auto codes = require_part(parts, "codes", DType::kU8, code_columns.shape(), subject).bytes;
  const auto scales = values_of<float>(require_part(parts, "scales", DType::kF32, {blocks, rows}, subject));
  std::span<const std::byte> zeros;
  if (!scheme.symmetric) zeros = require_part(parts, "zeros", DType::kU8, zero_columns.shape(), subject).bytes;
  code_columns.for_each([&, &columns = code_columns](int64_t r, int64_t c) {
    m.codes[static_cast<size_t>(r * cols + c)] =
        static_cast<uint8_t>(columns.get(codes, r, c, scheme.symmetric) + shift);
  });
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t r = 0; r < rows; ++r) {
      const auto at = static_cast<size_t>(r * m.groups() + b / group_blocks);
      const float scale = scales[static_cast<size_t>(b * rows + r)];
      const auto zero = static_cast<uint8_t>(scheme.symmetric ? 0 : zero_columns.get(zeros, r, b, false));
      if (b % group_blocks == 0) m.scales[at] = scale;
      if (b % group_blocks == 0 && !scheme.symmetric) m.zeros[at] = zero;
      if (m.scales[at] != scale || (!scheme.symmetric && m.zeros[at] != zero))
        fail("unpack", subject, "the blocks of one group have different scales or zero points");
    }
  check_matrix(m, subject);
  return m;
}

}  // namespace

int64_t dequantize_block(const Scheme& scheme, int64_t cols) {
  const int64_t block = matmulnbits_layout(scheme, cols).block;
  return block != 0 ? block : scheme.group_size(cols);
}

const PackedFormat kDequantizeLinearFormat{"dequantizelinear", refuses, pack, unpack};

}  // namespace retort
