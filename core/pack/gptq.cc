// The layout of GPTQ checkpoints, as AutoGPTQ defined it: codes in 32-bit words along the input, zero points in
// words along the output, both streams with the low bits first (3-bit values straddle words). Version 1 stores
// every zero point minus one, which its readers undo in ways that disagree when a zero point is 0: it is written
// for symmetric matrices only. Version 2 stores the zero point itself.
#include <algorithm>
#include <string>

#include "core/pack/bit_rows.h"
#include "core/pack/bit_stream.h"
#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

constexpr int64_t kTile = 16;  // rows packed together: one cache line of words

int64_t words_for(int64_t values, int bits) { return values * bits / kWordBits; }

// Calls body(row, group) in an order that walks both the rows of scales and the lines of the parts in cache lines.
template <typename Body>
void for_tiles(int64_t rows, int64_t groups, const Body& body) {
  for (int64_t first = 0; first < rows; first += kTile)
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t r = first; r < std::min(first + kTile, rows); ++r) body(r, g);
}

std::vector<int32_t> group_index(const QuantizedMatrix& m) {
  std::vector<int32_t> index(static_cast<size_t>(m.cols));
  for (size_t c = 0; c < index.size(); ++c) index[c] = static_cast<int32_t>(m.group_of(static_cast<int64_t>(c)));
  return index;
}

// Calls body(first row, rows, tile, stride) with room for a tile of packed rows, `stride` words apart: rows a power of
// two apart would share a few sets of the cache.
template <typename Body>
void for_row_tiles(int64_t rows, int64_t words, const Body& body) {
  const int64_t stride = words + kTile;
  std::vector<uint32_t> tile(static_cast<size_t>(stride * kTile));
  for (int64_t first = 0; first < rows; first += kTile) body(first, std::min(kTile, rows - first), tile.data(), stride);
}

// [words of a row, rows]: every row packed by itself, then turned a cache line of words at a time.
void pack_codes(const QuantizedMatrix& m, std::span<uint32_t> packed) {
  const int64_t words = words_for(m.cols, m.scheme.bits);
  for_row_tiles(m.rows, words, [&](int64_t first, int64_t count, uint32_t* tile, int64_t stride) {
    for (int64_t r = 0; r < count; ++r)
      pack_row(row_of(m.codes, first + r, m.cols), m.scheme.bits, reinterpret_cast<uint8_t*>(tile + r * stride));
    for (int64_t w = 0; w < words; ++w)
      for (int64_t r = 0; r < count; ++r) packed[static_cast<size_t>(w * m.rows + first + r)] = tile[r * stride + w];
  });
}

void unpack_codes(const std::vector<uint32_t>& packed, QuantizedMatrix& m) {
  const int64_t words = words_for(m.cols, m.scheme.bits);
  for_row_tiles(m.rows, words, [&](int64_t first, int64_t count, uint32_t* tile, int64_t stride) {
    for (int64_t w = 0; w < words; ++w)
      for (int64_t r = 0; r < count; ++r) tile[r * stride + w] = packed[static_cast<size_t>(w * m.rows + first + r)];
    for (int64_t r = 0; r < count; ++r)
      unpack_row(reinterpret_cast<const uint8_t*>(tile + r * stride), m.scheme.bits,
                 row_of(m.codes, first + r, m.cols));
  });
}

std::vector<PackedPart> pack(const QuantizedMatrix& m, uint32_t zero_offset) {
  const int bits = m.scheme.bits;
  const int64_t rows = m.rows, groups = m.groups();
  const int64_t code_words = words_for(m.cols, bits), zero_words = words_for(rows, bits);
  std::vector<uint32_t> zeros(static_cast<size_t>(groups * zero_words));
  std::vector<uint16_t> scales(static_cast<size_t>(groups * rows));
  for_tiles(rows, groups, [&](int64_t r, int64_t g) {
    BitStream{zeros.data() + g * zero_words, 1, bits}.put(r, m.zero(r, g) - zero_offset);
    scales[static_cast<size_t>(g * rows + r)] = f32_to_f16(m.scales[static_cast<size_t>(r * groups + g)]);
  });
  std::vector<PackedPart> parts;
  pack_codes(m, elements_of<uint32_t>(parts.emplace_back(blank_part("qweight", DType::kI32, {code_words, rows}))));
  parts.push_back(make_part("qzeros", DType::kI32, {groups, zero_words}, zeros));
  parts.push_back(make_part("scales", DType::kF16, {groups, rows}, scales));
  parts.push_back(make_part("g_idx", DType::kI32, {m.cols}, group_index(m)));
  return parts;
}

// Zero points of all groups; for a symmetric scheme they must all be the middle and are then left out.
void read_zeros(QuantizedMatrix& m, std::vector<uint32_t> words, uint32_t zero_offset, std::string_view subject) {
  const int64_t groups = m.groups(), per_group = words_for(m.rows, m.scheme.bits);
  for_tiles(m.rows, groups, [&](int64_t r, int64_t g) {
    const uint32_t zero = BitStream{words.data() + g * per_group, 1, m.scheme.bits}.get(r) + zero_offset;
    if (zero > m.scheme.max_code())
      fail("unpack", subject,
           "a zero point of version 1 is 0, which its writers store in ways that contradict each other",
           "Save it with checkpoint_format gptq_v2");
    if (m.scheme.symmetric && zero != m.scheme.middle())
      fail("unpack", subject, "the scheme is symmetric, and a zero point is not the middle");
    if (!m.scheme.symmetric) m.zeros[static_cast<size_t>(r * groups + g)] = static_cast<uint8_t>(zero);
  });
}

std::string refuses_shape(const QuantizedMatrix& m) {
  if (!m.scheme.is_plain() || m.scheme.bits == 5) return "it holds integers of 2, 3, 4 or 8 bits times one scale";
  const auto whole = [&](int64_t values) { return values * m.scheme.bits % kWordBits == 0; };
  if (!whole(m.cols)) return "its " + std::to_string(m.cols) + " columns do not fill whole 32-bit words";
  if (!whole(m.rows)) return "its " + std::to_string(m.rows) + " rows do not fill whole 32-bit words of zero points";
  return {};
}

QuantizedMatrix unpack(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                       uint32_t zero_offset, std::string_view subject) {
  if (!scheme.fits(cols)) fail("unpack", subject, "the group size does not divide the row length");
  QuantizedMatrix m{
      .scheme = scheme, .rows = rows, .cols = cols, .codes = {}, .scales = {}, .zeros = {}, .column_group = {}};
  if (const std::string reason = refuses_shape(m); !reason.empty()) fail("unpack", subject, reason);
  const int bits = scheme.bits;
  const int64_t groups = m.groups();
  const auto codes =
      values_of<uint32_t>(require_part(parts, "qweight", DType::kI32, {words_for(cols, bits), rows}, subject));
  const std::vector<float> scales = require_scales(parts, "scales", {groups, rows}, subject);
  const auto& zeros = require_part(parts, "qzeros", DType::kI32, {groups, words_for(rows, bits)}, subject);
  m = make_quantized(scheme, rows, cols);
  unpack_codes(codes, m);
  for_tiles(rows, groups, [&](int64_t r, int64_t g) {
    m.scales[static_cast<size_t>(r * groups + g)] = scales[static_cast<size_t>(g * rows + r)];
  });
  read_zeros(m, values_of<uint32_t>(zeros), zero_offset, subject);
  if (find_part(parts, "g_idx") != nullptr)  // some writers leave it out where it says nothing
    m.column_group = values_of<int32_t>(require_part(parts, "g_idx", DType::kI32, {cols}, subject));
  check_integers(m, subject);
  if (groups_in_order(m)) m.column_group.clear();
  return m;
}

std::string v1_refuses(const QuantizedMatrix& m) {
  if (!m.scheme.symmetric) return "version 1 of the layout is ambiguous for asymmetric zero points";
  return refuses_shape(m);
}

}  // namespace

const PackedFormat kGptqV1Format{
    "gptq", v1_refuses, [](const QuantizedMatrix& m) { return pack(m, 1); },
    [](const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
       std::string_view subject) { return unpack(scheme, rows, cols, parts, 1, subject); }};

const PackedFormat kGptqV2Format{
    "gptq_v2", refuses_shape, [](const QuantizedMatrix& m) { return pack(m, 0); },
    [](const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
       std::string_view subject) { return unpack(scheme, rows, cols, parts, 0, subject); }};

}  // namespace retort
