// Layout: docs/ContribOperators.md of ONNX Runtime, "com.microsoft.MatMulNBits". Codes and zero points are
// unsigned with the low bits first; a symmetric matrix has no zero points, which stands for 2^(bits-1).
#include "core/pack/matmulnbits.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "core/base/isa.h"
#include "core/pack/bit_rows.h"
#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

constexpr int64_t kMinBlock = 16, kMaxBlock = 256;

// What is added to a code: a symmetric code of 3 or 5 bits moves to the middle that the operator assumes.
int code_shift(const Scheme& scheme, int bits) { return scheme.symmetric ? (1 << (bits - 1)) - scheme.middle() : 0; }

const uint8_t* bytes_of(const PackedPartView& part) { return reinterpret_cast<const uint8_t*>(part.bytes.data()); }

struct Sizes {
  MatMulNBitsLayout layout;
  int64_t row_bytes, zero_bytes, group_blocks;  // bytes of a row's codes and zero points; blocks with one scale
};

Sizes sizes_of(const Scheme& scheme, int64_t cols) {
  const MatMulNBitsLayout layout = matmulnbits_layout(scheme, cols);
  return {layout, layout.blocks * layout.block * layout.bits / 8, (layout.blocks * layout.bits + 7) / 8,
          (scheme.group_size(cols) + layout.block - 1) / layout.block};
}

std::string refuses(const QuantizedMatrix& m) {
  if (!m.scheme.is_plain()) return "MatMulNBits holds integers times one scale";
  if (!groups_in_order(m)) return "columns in activation order have no place in MatMulNBits";
  if (matmulnbits_layout(m.scheme, m.cols).block == 0)
    return "no block of 16 to 256 columns divides its groups of " + std::to_string(m.scheme.group);
  return {};
}

RETORT_EACH_ISA void add_to_all(std::span<const uint8_t> values, int shift, std::span<uint8_t> out) {
  for (size_t i = 0; i < values.size(); ++i) out[i] = static_cast<uint8_t>(values[i] + shift);
}

// Codes of all rows, moved to the middle that the operator assumes.
PackedPart codes_part(const QuantizedMatrix& m, const Sizes& sizes) {
  const auto [bits, block, blocks] = sizes.layout;
  PackedPart part = blank_part("codes", DType::kU8, {m.rows, blocks, block * bits / 8});
  const int shift = code_shift(m.scheme, bits);
  std::vector<uint8_t> moved(static_cast<size_t>(shift != 0 ? m.cols : 0));
  for (int64_t r = 0; r < m.rows; ++r) {
    std::span row = row_of(m.codes, r, m.cols);
    if (shift != 0) add_to_all(row, shift, moved), row = moved;
    pack_row(row, bits, elements_of<uint8_t>(part).data() + r * sizes.row_bytes);
  }
  return part;
}

std::vector<PackedPart> pack(const QuantizedMatrix& m) {
  const Sizes sizes = sizes_of(m.scheme, m.cols);
  const MatMulNBitsLayout& layout = sizes.layout;
  std::vector<uint8_t> zeros(static_cast<size_t>(m.scheme.symmetric ? 0 : m.rows * sizes.zero_bytes)),
      row(static_cast<size_t>(layout.blocks));
  std::vector<float> scales(static_cast<size_t>(m.rows * layout.blocks));
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t b = 0; b < layout.blocks; ++b) {
      const int64_t group = b / sizes.group_blocks;
      scales[static_cast<size_t>(r * layout.blocks + b)] = m.scales[static_cast<size_t>(r * m.groups() + group)];
      row[static_cast<size_t>(b)] = m.zero(r, group);
    }
    if (!m.scheme.symmetric) pack_row(row, layout.bits, zeros.data() + r * sizes.zero_bytes);
  }
  std::vector<PackedPart> parts;
  parts.push_back(codes_part(m, sizes));
  parts.push_back(make_part("scales", DType::kF32, {m.rows, layout.blocks}, scales));
  if (!m.scheme.symmetric) parts.push_back(make_part("zeros", DType::kU8, {m.rows, sizes.zero_bytes}, zeros));
  return parts;
}

QuantizedMatrix unpack(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                       std::string_view subject) {
  if (!scheme.fits(cols)) fail("unpack", subject, "the group size does not divide the row length");
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  if (const std::string reason = refuses(m); !reason.empty()) fail("unpack", subject, reason);
  const auto [layout, row_bytes, zero_bytes, group_blocks] = sizes_of(scheme, cols);
  const int shift = code_shift(scheme, layout.bits);
  const int64_t blob = layout.block * layout.bits / 8;
  const auto& codes = require_part(parts, "codes", DType::kU8, {rows, layout.blocks, blob}, subject);
  const auto scales = values_of<float>(require_part(parts, "scales", DType::kF32, {rows, layout.blocks}, subject));
  const PackedPartView* zeros =
      scheme.symmetric ? nullptr : &require_part(parts, "zeros", DType::kU8, {rows, zero_bytes}, subject);
  std::vector<uint8_t> row_zeros(static_cast<size_t>(layout.blocks));
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = row_of(m.codes, r, cols);
    unpack_row(bytes_of(codes) + r * row_bytes, layout.bits, row);
    for (uint8_t& code : row) code = static_cast<uint8_t>(code - shift);
    if (zeros != nullptr) unpack_row(bytes_of(*zeros) + r * zero_bytes, layout.bits, row_zeros);
    for (int64_t b = 0; b < layout.blocks; ++b) {
      const auto at = static_cast<size_t>(r * m.groups() + b / group_blocks);
      const float scale = scales[static_cast<size_t>(r * layout.blocks + b)];
      const uint8_t zero = row_zeros[static_cast<size_t>(b)];
      if (b % group_blocks == 0) m.scales[at] = scale;
      if (b % group_blocks == 0 && zeros != nullptr) m.zeros[at] = zero;
      if (m.scales[at] != scale || (zeros != nullptr && m.zeros[at] != zero))
        fail("unpack", subject, "the blocks of one group have different scales or zero points");
    }
  }
  check_matrix(m, subject);
  return m;
}

}  // namespace

MatMulNBitsLayout matmulnbits_layout(const Scheme& scheme, int64_t cols) {
  MatMulNBitsLayout layout;
  layout.bits = scheme.bits <= 2 ? 2 : scheme.bits <= 4 ? 4 : 8;
  // A channel's scale serves any block; 32 wastes the least where the last block is padded.
  const int64_t unit = scheme.granularity == Granularity::kGroup ? scheme.group : std::gcd(cols, int64_t{128});
  const int64_t power = unit & -unit;  // the largest power of two that divides it
  layout.block = std::min(power, kMaxBlock);
  if (scheme.granularity != Granularity::kGroup) layout.block = std::max<int64_t>(layout.block, 32);
  if (layout.block < kMinBlock) return {layout.bits, 0, 0};
  layout.blocks = (cols + layout.block - 1) / layout.block;
  return layout;
}

const PackedFormat kMatMulNBitsFormat{"matmulnbits", refuses, pack, unpack};

}  // namespace retort
