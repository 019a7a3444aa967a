// The layout "pack-quantized" of compressed-tensors (compressors/pack_quantized, 0.19): codes in 32-bit words along the
// input, zero points in words along the output, both streams with the low bits first (3-bit values straddle words,
// which they did not before that version). The library's integers are signed, and it stores them with 2^(bits-1) added:
// our codes and zero points as they are. Groups follow the order of the columns: the library has dropped its group
// index, which is read from earlier files and not written.
#include <string>

#include "core/pack/bit_rows.h"
#include "core/pack/bit_stream.h"
#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

int64_t words_for(int64_t values, int bits) { return (values * bits + kWordBits - 1) / kWordBits; }

int64_t row_words(const QuantizedMatrix& m) { return words_for(m.cols, m.scheme.bits); }

PackedPart codes_part(const QuantizedMatrix& m) {
  PackedPart part = blank_part("weight_packed", DType::kI32, {m.rows, row_words(m)});
  auto* words = elements_of<uint32_t>(part).data();
  for (int64_t r = 0; r < m.rows; ++r, words += row_words(m))
    pack_row(row_of(m.codes, r, m.cols), m.scheme.bits, reinterpret_cast<uint8_t*>(words));
  return part;
}

std::string refuses(const QuantizedMatrix& m) {
  if (!m.scheme.is_plain()) return "compressed-tensors packs integers times one scale";
  if (m.scheme.bits > 4 && m.scheme.bits != 8)
    return "codes of " + std::to_string(m.scheme.bits) + " bits have no place in it";
  if (!m.scheme.fits(m.cols)) return "the group size does not divide the row length";
  if (!groups_in_order(m)) return "compressed-tensors has dropped groups in activation order";
  return {};
}

std::vector<PackedPart> pack_rows(const QuantizedMatrix& m) {
  const int bits = m.scheme.bits;
  const int64_t groups = m.groups(), zero_words = words_for(m.rows, bits);
  std::vector<PackedPart> parts;
  parts.push_back(codes_part(m));
  parts.push_back(floats_part("weight_scale", DType::kF16, {m.rows, m.groups()}, m.scales));
  parts.push_back(make_part("weight_shape", DType::kI64, {2}, std::vector<int64_t>{m.rows, m.cols}));
  if (!m.zeros.empty()) {
    std::vector<uint32_t> zeros(static_cast<size_t>(zero_words * groups));
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t g = 0; g < groups; ++g) BitStream{zeros.data() + g, groups, bits}.put(r, m.zero(r, g));
    parts.push_back(make_part("weight_zero_point", DType::kI32, {zero_words, groups}, zeros));
  }
  return parts;
}

bool all_bf16(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float v) { return bf16_to_f32(f32_to_bf16(v)) == v; });
}

// bf16 is what most models compute in: scales that it holds survive there.
void finish_parts(std::span<PackedPart> parts, int64_t rows, int64_t cols) {
  for (PackedPart& part : parts) {
    if (part.name == "weight_shape") part = make_part(part.name, part.dtype, part.shape, std::vector{rows, cols});
    if (part.name == "weight_scale" && all_bf16(floats_of(part))) restate(part, DType::kBF16);
  }
}

// Packed or, as earlier versions of the library wrote them, one signed byte each.
void read_zeros(QuantizedMatrix& m, std::span<const PackedPartView> parts, std::string_view subject) {
  const int bits = m.scheme.bits;
  const int64_t groups = m.groups();
  const PackedPartView* part = find_part(parts, "weight_zero_point");
  if (part != nullptr && part->dtype == DType::kI8) {
    const auto zeros = values_of<int8_t>(require_part(parts, part->name, DType::kI8, {m.rows, groups}, subject));
    const auto code_of = [&](int8_t zero) { return static_cast<uint8_t>(zero + m.scheme.middle()); };
    std::ranges::transform(zeros, m.zeros.begin(), code_of);
    return;
  }
  auto zeros = values_of<uint32_t>(
      require_part(parts, "weight_zero_point", DType::kI32, {words_for(m.rows, bits), groups}, subject));
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t g = 0; g < groups; ++g)
      m.zeros[static_cast<size_t>(r * groups + g)] =
          static_cast<uint8_t>(BitStream{zeros.data() + g, groups, bits}.get(r));
}

QuantizedMatrix unpack(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                       std::string_view subject) {
  if (!scheme.fits(cols)) fail("unpack", subject, "the group size does not divide the row length");
  const int64_t words = words_for(cols, scheme.bits);
  const auto& codes = require_part(parts, "weight_packed", DType::kI32, {rows, words}, subject);
  std::vector<float> scales = require_scales(parts, "weight_scale", {rows, scheme.groups(cols)}, subject);
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  m.scales = std::move(scales);
  const auto* packed = reinterpret_cast<const uint8_t*>(codes.bytes.data());
  for (int64_t r = 0; r < rows; ++r) unpack_row(packed + r * words * 4, scheme.bits, row_of(m.codes, r, cols));
  if (!scheme.symmetric) read_zeros(m, parts, subject);
  if (find_part(parts, "weight_g_idx") != nullptr)
    m.column_group = values_of<int32_t>(require_part(parts, "weight_g_idx", DType::kI32, {cols}, subject));
  check_integers(m, subject);
  if (groups_in_order(m)) m.column_group.clear();
  return m;
}

}  // namespace

const PackedFormat kCompressedTensorsFormat{"compressed-tensors",     refuses,     pack_rows, unpack,
                                            /*holds_outliers=*/false, finish_parts};

}  // namespace retort
