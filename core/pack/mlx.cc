// The affine group quantization of MLX (mlx.core.quantize, mode "affine"): the codes of a row are one stream of bits in
// 32-bit words, low bits first, and a value is scale * code + bias, so that bias = -scale * zero. Scales and biases
// are F16 where that holds both exactly, as it does for symmetric matrices, else F32.
#include <algorithm>
#include <cmath>
#include <string>

#include "core/pack/bit_rows.h"
#include "core/pack/bit_stream.h"
#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

float bias_of(const QuantizedMatrix& m, size_t at) {
  const int64_t groups = m.groups(), index = static_cast<int64_t>(at);
  if (m.scheme.has_minima()) return -m.minima[at];
  return -m.scales[at] * static_cast<float>(m.zero(index / groups, index % groups));
}

std::string refuses(const QuantizedMatrix& m) {
  if (m.scheme.book != CodeBook::kLinear) return "MLX holds integers times one scale";
  const int64_t group = m.scheme.group_size(m.cols);
  if (group != 32 && group != 64 && group != 128)
    return "MLX has groups of 32, 64 or 128 columns, and these have " + std::to_string(group);
  if (m.cols * m.scheme.bits % kWordBits != 0)
    return "its " + std::to_string(m.cols) + " columns do not fill whole 32-bit words";
  if (!groups_in_order(m)) return "columns in activation order have no place in MLX";
  // Without a scale the bias does not tell the zero point.
  for (size_t i = 0; i < m.zeros.size() && i < m.scales.size(); ++i)
    if (m.scales[i] == 0 && m.zeros[i] != 0) return "a group with the scale 0 has another zero point than 0";
  return {};
}

std::vector<PackedPart> pack_rows(const QuantizedMatrix& m) {
  const int64_t row_bytes = row_bytes_of(m.cols, m.scheme.bits);
  std::vector<PackedPart> parts;
  PackedPart& codes = parts.emplace_back(blank_part("weight", DType::kU32, {m.rows, row_bytes * 8 / kWordBits}));
  for (int64_t r = 0; r < m.rows; ++r)
    pack_row(row_of(m.codes, r, m.cols), m.scheme.bits, elements_of<uint8_t>(codes).data() + r * row_bytes);
  std::vector<float> biases(m.scales.size());
  for (size_t i = 0; i < biases.size(); ++i) biases[i] = bias_of(m, i);
  parts.push_back(floats_part("scales", DType::kF32, {m.rows, m.groups()}, m.scales));
  parts.push_back(floats_part("biases", DType::kF32, {m.rows, m.groups()}, biases));
  return parts;
}

void finish_parts(std::span<PackedPart> parts, int64_t, int64_t) {
  const auto floats = parts.last(2);
  if (std::ranges::all_of(floats, [](const PackedPart& part) { return all_f16(floats_of(part)); }))
    for (PackedPart& part : floats) restate(part, DType::kF16);
}

// The zero points that the biases stand for, when they stand for any.
void read_zeros(QuantizedMatrix& m, const std::vector<float>& biases, std::string_view subject) {
  for (size_t i = 0; i < biases.size(); ++i) {
    const float zero = std::nearbyint(-biases[i] / m.scales[i]), highest = m.scheme.max_code();
    if (m.scheme.has_zeros() && m.scales[i] != 0)
      m.zeros[i] = static_cast<uint8_t>(std::fmin(std::fmax(zero, 0.0f), highest));  // 0 where it is no number
    if (m.scheme.has_minima()) m.minima[i] = -biases[i];
    if (bias_of(m, i) != biases[i])
      fail("unpack", subject, "a bias is not the scale times a zero point of the scheme " + name_of(m.scheme));
  }
}

QuantizedMatrix unpack(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                       std::string_view subject) {
  if (!scheme.fits(cols)) fail("unpack", subject, "the group size does not divide the row length");
  if (scheme.is_super_block()) fail("unpack", subject, "the integers behind the scales of super-blocks are not stored");
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  if (const std::string reason = refuses(m); !reason.empty()) fail("unpack", subject, reason);
  const int64_t row_bytes = row_bytes_of(cols, scheme.bits), groups = m.groups();
  const auto& codes = require_part(parts, "weight", DType::kU32, {rows, row_bytes * 8 / kWordBits}, subject);
  const auto* packed = reinterpret_cast<const uint8_t*>(codes.bytes.data());
  for (int64_t r = 0; r < rows; ++r) unpack_row(packed + r * row_bytes, scheme.bits, row_of(m.codes, r, cols));
  const std::initializer_list<DType> types = {DType::kF16, DType::kBF16, DType::kF32};
  m.scales = floats_of(require_part(parts, "scales", types, {rows, groups}, subject));
  read_zeros(m, floats_of(require_part(parts, "biases", types, {rows, groups}, subject)), subject);
  check_matrix(m, subject);
  return m;
}

}  // namespace

const PackedFormat kMlxFormat{"mlx", refuses, pack_rows, unpack, /*holds_outliers=*/false, finish_parts};

}  // namespace retort
