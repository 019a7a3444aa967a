// The GEMM layout of AWQ checkpoints (AutoAWQ, awq/modules/linear/gemm.py): 4-bit codes and zero points in 32-bit
// words along the OUTPUT, scales in f16. Nibble i of a word holds row 8w + kOrder[i]. Zero points are stored as they
// are, and a symmetric matrix has the middle in all of them. Groups follow the order of the columns.
#include <algorithm>
#include <array>
#include <string>

#include "core/base/isa.h"
#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

constexpr int kBits = 4;
constexpr int64_t kPerWord = 8;
constexpr std::array<int64_t, kPerWord> kOrder{0, 2, 4, 6, 1, 3, 5, 7};
constexpr int64_t kTile = 16;  // words written together: one cache line

// Eight rows of codes, `stride` apart, in the order in which a word has them.
template <typename Code>
std::array<Code*, kPerWord> eight_rows(Code* codes, int64_t stride) {
  std::array<Code*, kPerWord> rows;
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = codes + kOrder[i] * stride;
  return rows;
}

// A word for each column. Words are made of bytes, two codes in each, from neighbours in a row: compilers make vectors
// of that.
RETORT_INLINE void pack_eight_rows(const std::array<const uint8_t*, kPerWord>& rows, int64_t cols, uint8_t* words) {
  const auto [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
  for (int64_t c = 0; c < cols; ++c) {
    words[4 * c] = static_cast<uint8_t>(r0[c] | r1[c] << kBits);
    words[4 * c + 1] = static_cast<uint8_t>(r2[c] | r3[c] << kBits);
    words[4 * c + 2] = static_cast<uint8_t>(r4[c] | r5[c] << kBits);
    words[4 * c + 3] = static_cast<uint8_t>(r6[c] | r7[c] << kBits);
  }
}

RETORT_INLINE void unpack_eight_rows(const uint8_t* words, int64_t cols, const std::array<uint8_t*, kPerWord>& rows) {
  const auto two = [&](size_t byte) {
    uint8_t *low = rows[2 * byte], *high = rows[2 * byte + 1];
    for (int64_t c = 0; c < cols; ++c) {
      const uint8_t both = words[4 * c + static_cast<int64_t>(byte)];
      low[c] = both & 15;
      high[c] = both >> kBits;
    }
  };
  for (size_t byte = 0; byte < kPerWord / 2; ++byte) two(byte);
}

constexpr int64_t kColumns = 64;  // of a tile of words, which is turned in a core's first cache
using Tile = std::array<std::array<uint32_t, kColumns>, kTile>;

// Calls body(first word, words, first column, columns) for the tiles of [cols, words].
template <typename Body>
RETORT_INLINE void for_word_tiles(int64_t words, int64_t cols, const Body& body) {
  for (int64_t word = 0; word < words; word += kTile)
    for (int64_t col = 0; col < cols; col += kColumns)
      body(word, std::min(kTile, words - word), col, std::min(kColumns, cols - col));
}

// [cols, rows / 8] words of codes or zero points, [rows, cols].
RETORT_EACH_ISA void pack_words(const uint8_t* values, int64_t rows, int64_t cols, std::span<uint32_t> packed) {
  const int64_t words = rows / kPerWord;
  Tile tile;
  for_word_tiles(words, cols, [&](int64_t word, int64_t count, int64_t col, int64_t width) {
    for (int64_t w = 0; w < count; ++w)
      pack_eight_rows(eight_rows(values + (word + w) * kPerWord * cols + col, cols), width,
                      reinterpret_cast<uint8_t*>(tile[static_cast<size_t>(w)].data()));
    for (int64_t c = 0; c < width; ++c)
      for (int64_t w = 0; w < count; ++w)
        packed[static_cast<size_t>((col + c) * words + word + w)] =
            tile[static_cast<size_t>(w)][static_cast<size_t>(c)];
  });
}

RETORT_EACH_ISA void unpack_words(std::span<const uint32_t> packed, int64_t rows, int64_t cols, uint8_t* values) {
  const int64_t words = rows / kPerWord;
  Tile tile;
  for_word_tiles(words, cols, [&](int64_t word, int64_t count, int64_t col, int64_t width) {
    for (int64_t c = 0; c < width; ++c)
      for (int64_t w = 0; w < count; ++w)
        tile[static_cast<size_t>(w)][static_cast<size_t>(c)] =
            packed[static_cast<size_t>((col + c) * words + word + w)];
    for (int64_t w = 0; w < count; ++w)
      unpack_eight_rows(reinterpret_cast<const uint8_t*>(tile[static_cast<size_t>(w)].data()), width,
                        eight_rows(values + (word + w) * kPerWord * cols + col, cols));
  });
}

PackedPart words_part(std::string_view name, const std::vector<uint8_t>& values, int64_t rows, int64_t cols) {
  PackedPart part = blank_part(name, DType::kI32, {cols, rows / kPerWord});
  pack_words(values.data(), rows, cols, elements_of<uint32_t>(part));
  return part;
}

std::string refuses(const QuantizedMatrix& m) {
  if (!m.scheme.is_plain()) return "the GEMM layout holds integers times one scale";
  if (m.scheme.bits != kBits) return "the GEMM layout has 4-bit codes, and these have " + std::to_string(m.scheme.bits);
  if (m.rows % kPerWord != 0) return "its " + std::to_string(m.rows) + " rows do not fill whole words of 8 codes";
  if (!groups_in_order(m)) return "columns in activation order have no place in the GEMM layout";
  return {};
}

std::vector<PackedPart> pack(const QuantizedMatrix& m) {
  const int64_t rows = m.rows, groups = m.groups();
  const std::vector<uint8_t> middles(m.zeros.empty() ? static_cast<size_t>(rows * groups) : 0, m.scheme.middle());
  std::vector<uint16_t> scales(static_cast<size_t>(groups * rows));
  for (size_t i = 0; i < scales.size(); ++i)
    scales[i] = f32_to_f16(
        m.scales[i % static_cast<size_t>(rows) * static_cast<size_t>(groups) + i / static_cast<size_t>(rows)]);
  std::vector<PackedPart> parts;
  parts.push_back(words_part("qweight", m.codes, rows, m.cols));
  parts.push_back(words_part("qzeros", m.zeros.empty() ? middles : m.zeros, rows, groups));
  parts.push_back(make_part("scales", DType::kF16, {groups, rows}, scales));
  return parts;
}

QuantizedMatrix unpack(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                       std::string_view subject) {
  if (!scheme.fits(cols)) fail("unpack", subject, "the group size does not divide the row length");
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  if (const std::string reason = refuses(m); !reason.empty()) fail("unpack", subject, reason);
  const int64_t groups = m.groups(), words = rows / kPerWord;
  const auto codes = values_of<uint32_t>(require_part(parts, "qweight", DType::kI32, {cols, words}, subject));
  const auto zeros = values_of<uint32_t>(require_part(parts, "qzeros", DType::kI32, {groups, words}, subject));
  const std::vector<float> scales = require_scales(parts, "scales", {groups, rows}, subject);
  unpack_words(codes, rows, cols, m.codes.data());
  std::vector<uint8_t> zero_points(static_cast<size_t>(rows * groups));
  unpack_words(zeros, rows, groups, zero_points.data());
  if (scheme.symmetric && std::ranges::any_of(zero_points, [&](uint8_t zero) { return zero != scheme.middle(); }))
    fail("unpack", subject, "the scheme is symmetric, and a zero point is not the middle");
  if (!scheme.symmetric) m.zeros = std::move(zero_points);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t g = 0; g < groups; ++g)
      m.scales[static_cast<size_t>(r * groups + g)] = scales[static_cast<size_t>(g * rows + r)];
  check_integers(m, subject);
  return m;
}

}  // namespace

const PackedFormat kAwqFormat{"awq", refuses, pack, unpack};

}  // namespace retort
