// The native layout: codes [rows, row bytes] with the low bits first, each row starting on a byte; scales and zeros
// [rows, groups]; with activation order, the group of each column; with columns in 16 bits, their values [rows,
// columns] and their numbers.
#include <cstring>

#include "core/pack/bit_rows.h"
#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

std::string refuses(const QuantizedMatrix& m) {
  return m.scheme.is_super_block() || m.scheme.has_minima() ? "GGUF blocks are stored as they are" : "";
}

std::vector<PackedPart> pack(const QuantizedMatrix& m) {
  const int64_t row_bytes = row_bytes_of(m.cols, m.scheme.bits), groups = m.groups();
  std::vector<PackedPart> parts;
  PackedPart& codes = parts.emplace_back(blank_part("codes", DType::kU8, {m.rows, row_bytes}));
  for (int64_t r = 0; r < m.rows; ++r)
    pack_row(row_of(m.codes, r, m.cols), m.scheme.bits, elements_of<uint8_t>(codes).data() + r * row_bytes);
  parts.push_back(floats_part("scales", DType::kF16, {m.rows, groups}, m.scales));
  if (!m.zeros.empty()) parts.push_back(make_part("zeros", DType::kU8, {m.rows, groups}, m.zeros));
  if (!m.column_group.empty()) parts.push_back(make_part("groups", DType::kI32, {m.cols}, m.column_group));
  if (m.outlier_columns.empty()) return parts;
  const auto outliers = static_cast<int64_t>(m.outlier_columns.size());
  parts.push_back(floats_part("outliers", DType::kF16, {m.rows, outliers}, m.outliers));
  parts.push_back(make_part("outlier_columns", DType::kI32, {outliers}, m.outlier_columns));
  return parts;
}

// Both parts or neither.
void unpack_outliers(std::span<const PackedPartView> parts, std::string_view subject, QuantizedMatrix& m) {
  const PackedPartView* columns = find_part(parts, "outlier_columns");
  if (columns == nullptr && find_part(parts, "outliers") == nullptr) return;
  const int64_t count = columns != nullptr && columns->shape.size() == 1 ? columns->shape[0] : 0;
  m.outlier_columns = values_of<int32_t>(require_part(parts, "outlier_columns", DType::kI32, {count}, subject));
  m.outliers = floats_of(require_part(parts, "outliers", DType::kF16, {m.rows, count}, subject));
}

QuantizedMatrix unpack(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                       std::string_view subject) {
  if (!scheme.fits(cols)) fail("unpack", subject, "the group size does not divide the row length");
  const int64_t row_bytes = row_bytes_of(cols, scheme.bits), groups = scheme.groups(cols);
  const PackedPartView& codes = require_part(parts, "codes", DType::kU8, {rows, row_bytes}, subject);
  const PackedPartView& scales = require_part(parts, "scales", DType::kF16, {rows, groups}, subject);
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  const auto* packed = reinterpret_cast<const uint8_t*>(codes.bytes.data());
  for (int64_t r = 0; r < rows; ++r) unpack_row(packed + r * row_bytes, scheme.bits, row_of(m.codes, r, cols));
  decode_to_f32(DType::kF16, scales.bytes, m.scales);
  if (scheme.has_zeros())
    m.zeros = values_of<uint8_t>(require_part(parts, "zeros", DType::kU8, {rows, groups}, subject));
  if (std::ranges::any_of(parts, [](const PackedPartView& part) { return part.name == "groups"; }))
    m.column_group = values_of<int32_t>(require_part(parts, "groups", DType::kI32, {cols}, subject));
  unpack_outliers(parts, subject, m);
  check_matrix(m, subject);
  return m;
}

}  // namespace

const PackedFormat kNativeFormat{"native", refuses, pack, unpack, /*holds_outliers=*/true};

}  // namespace retort
