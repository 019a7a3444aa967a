#include "core/pack/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "core/base/error.h"
#include "core/base/isa.h"
#include "core/pack/block_types.h"

namespace retort {
namespace {

// `limit` is 2^n - 1: all values together have a bit above it when one of them has. Vectors of them at a time.
RETORT_EACH_ISA bool any_above(std::span<const uint8_t> values, uint8_t limit) {
  uint8_t bits = 0;
  for (const uint8_t value : values) bits |= value;
  return bits > limit;
}

template <typename T>
bool all_equal(const std::vector<T>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
}

int64_t super_blocks(const QuantizedMatrix& m) { return m.cols / m.scheme.unit_size(m.cols); }

// The reason why the integers behind the scales cannot be right; empty when they can.
std::string wrong_super_scales(const QuantizedMatrix& m) {
  const BlockInfo& info = block_info(m.scheme.block);
  const SuperScales& super = m.super;
  const auto blocks = static_cast<size_t>(m.rows * super_blocks(m));
  const size_t minima = m.scheme.has_minima() ? 1 : 0;
  if (super.scales.size() != blocks || super.minima.size() != blocks * minima ||
      super.scale_codes.size() != m.scales.size() || super.minimum_codes.size() != m.scales.size() * minima)
    return "the number of super-block scales does not fit the shape";
  const auto bad_scale = [&](int8_t code) { return code < info.least_scale || code > info.most_scale; };
  const auto bad_minimum = [&](uint8_t code) { return code > info.most_minimum; };
  if (std::ranges::any_of(super.scale_codes, bad_scale) || std::ranges::any_of(super.minimum_codes, bad_minimum))
    return "the integer of a scale is out of range";
  if (!all_f16(super.scales) || !all_f16(super.minima)) return "the scale of a super-block is not an f16 value";
  QuantizedMatrix expanded{.scheme = m.scheme,
                           .rows = m.rows,
                           .cols = m.cols,
                           .codes = {},
                           .scales = std::vector<float>(m.scales.size()),
                           .zeros = {},
                           .column_group = {},
                           .minima = std::vector<float>(m.minima.size()),
                           .super = super};
  expand_super_scales(expanded, 0, m.rows);
  return expanded.scales == m.scales && expanded.minima == m.minima ? ""
                                                                    : "scales do not follow from their super-blocks";
}

// The reason why the columns in 16 bits cannot be right; empty when they can.
std::string wrong_outliers(const QuantizedMatrix& m) {
  const std::vector<int32_t>& columns = m.outlier_columns;
  if (m.outliers.size() != static_cast<size_t>(m.rows) * columns.size())
    return "the number of values in 16 bits does not fit the shape";
  if (columns.empty()) return {};
  if (!m.scheme.holds_outliers()) return "its scheme has no columns in 16 bits";
  const bool rising = std::ranges::adjacent_find(columns, std::greater_equal<>()) == columns.end();
  if (!rising || columns.front() < 0 || columns.back() >= m.cols)
    return "the columns in 16 bits are not columns of it in rising order";
  if (!all_finite(m.outliers) || !all_f16(m.outliers)) return "a value in 16 bits is not an f16 value";
  for (int64_t r = 0; r < m.rows; ++r)
    for (const int32_t c : columns)
      if (m.codes[static_cast<size_t>(r * m.cols + c)] != m.zero(r, m.group_of(c)))
        return "a column in 16 bits has a code that is not its zero point";
  return {};
}

}  // namespace

QuantizedMatrix make_quantized(const Scheme& scheme, int64_t rows, int64_t cols) {
  QuantizedMatrix m{
      .scheme = scheme, .rows = rows, .cols = cols, .codes = {}, .scales = {}, .zeros = {}, .column_group = {}};
  const auto scales = static_cast<size_t>(rows * m.groups());
  m.codes.resize(static_cast<size_t>(rows * cols));
  m.scales.resize(scales);
  if (scheme.has_zeros()) m.zeros.resize(scales);
  if (scheme.has_minima()) m.minima.resize(scales);
  if (!scheme.is_super_block()) return m;
  const auto blocks = static_cast<size_t>(rows * super_blocks(m));
  m.super.scales.resize(blocks);
  m.super.scale_codes.resize(scales);
  if (scheme.has_minima()) m.super.minima.resize(blocks), m.super.minimum_codes.resize(scales);
  return m;
}

void expand_super_scales(QuantizedMatrix& m, int64_t first, int64_t count) {
  const auto per_block = static_cast<size_t>(m.scheme.unit_size(m.cols) / m.scheme.group_size(m.cols));
  const auto blocks = static_cast<size_t>(super_blocks(m)), end = static_cast<size_t>(first + count) * blocks;
  for (size_t block = static_cast<size_t>(first) * blocks; block < end; ++block)
    for (size_t g = block * per_block; g < (block + 1) * per_block; ++g) {
      m.scales[g] = m.super.scales[block] * static_cast<float>(m.super.scale_codes[g]);
      if (!m.minima.empty()) m.minima[g] = m.super.minima[block] * static_cast<float>(m.super.minimum_codes[g]);
    }
}

namespace {

// What the codes of one group of one row stand for.
struct GroupDecoder {
  float scale, minimum;
  int zero;
  std::span<const float> levels;

  float operator()(uint8_t code) const {
    return scale * (levels.empty() ? static_cast<float>(code - zero) : levels[code]) - minimum;
  }
};

// Of the group `at`, counted over all rows.
GroupDecoder decoder_of(const QuantizedMatrix& m, size_t at) {
  const int zero = m.scheme.has_minima() ? 0 : m.zeros.empty() ? m.scheme.middle() : m.zeros[at];
  // Subtracting +0 changes nothing, not even the sign of a zero.
  return {m.scales[at], m.minima.empty() ? 0.0f : m.minima[at], zero, levels_of(m.scheme.book)};
}

RETORT_EACH_ISA void decode_integers(const uint8_t* codes, size_t size, int zero, float scale, float minimum,
                                     float* out) {
  for (size_t i = 0; i < size; ++i) out[i] = scale * static_cast<float>(codes[i] - zero) - minimum;
}

void decode_run(const GroupDecoder& decode, std::span<const uint8_t> codes, float* out) {
  if (decode.levels.empty())
    return decode_integers(codes.data(), codes.size(), decode.zero, decode.scale, decode.minimum, out);
  for (const uint8_t code : codes) *out++ = decode(code);
}

}  // namespace

void dequantize_rows(const QuantizedMatrix& m, int64_t first, int64_t count, std::span<float> out) {
  const auto size = static_cast<size_t>(m.scheme.group_size(m.cols)), cols = static_cast<size_t>(m.cols);
  const auto groups = static_cast<size_t>(m.groups());
  for (int64_t r = 0; r < count; ++r) {
    const std::span codes(m.codes.data() + static_cast<size_t>(first + r) * cols, cols);
    const size_t row = static_cast<size_t>(first + r) * groups;
    float* values = out.data() + static_cast<size_t>(r) * cols;
    for (size_t g = 0; m.column_group.empty() && g < groups; ++g)
      decode_run(decoder_of(m, row + g), codes.subspan(g * size, size), values + g * size);
    for (size_t c = 0; !m.column_group.empty() && c < cols; ++c)
      values[c] = decoder_of(m, row + static_cast<size_t>(m.column_group[c]))(codes[c]);
    const float* outliers = m.outliers.data() + static_cast<size_t>(first + r) * m.outlier_columns.size();
    for (const int32_t c : m.outlier_columns) values[c] = *outliers++;
  }
}

void check_integers(const QuantizedMatrix& m, std::string_view subject) {
  const auto scales = static_cast<size_t>(m.rows * m.groups());
  const auto bad = [&](const char* reason) { fail("quantized matrix", subject, reason); };
  if (!m.scheme.fits(m.cols)) bad("the group size does not divide the row length");
  if (m.codes.size() != static_cast<size_t>(m.rows * m.cols)) bad("the number of codes does not fit the shape");
  if (m.scales.size() != scales) bad("the number of scales does not fit the shape");
  if (m.zeros.size() != (m.scheme.has_zeros() ? scales : 0)) bad("the number of zero points is wrong");
  if (m.minima.size() != (m.scheme.has_minima() ? scales : 0)) bad("the number of minima is wrong");
  if (any_above(m.codes, m.scheme.max_code())) bad("a code is out of range");
  if (any_above(m.zeros, m.scheme.max_code())) bad("a zero point is out of range");
  if (!all_finite(m.scales) || !all_finite(m.minima)) bad("a scale is not finite");
  if (m.scheme.is_super_block())
    if (const std::string reason = wrong_super_scales(m); !reason.empty()) bad(reason.c_str());
  if (m.scheme.granularity == Granularity::kTensor && !(all_equal(m.scales) && all_equal(m.zeros)))
    bad("the rows of a matrix with one scale for the tensor have different ones");
  if (!m.column_group.empty() && m.column_group.size() != static_cast<size_t>(m.cols))
    bad("the group index does not name every column");
  for (const int32_t group : m.column_group)
    if (group < 0 || group >= m.groups()) bad("a group index is out of range");
  if (const std::string reason = wrong_outliers(m); !reason.empty()) bad(reason.c_str());
}

void check_matrix(const QuantizedMatrix& m, std::string_view subject) {
  check_integers(m, subject);
  if (!m.scheme.is_super_block() && !(all_f16(m.scales) && all_f16(m.minima)))
    fail("quantized matrix", subject, "a scale is not an f16 value");
}

namespace {

// Rows of `width` values each, in the order given.
template <typename T>
void permute(std::vector<T>& values, std::span<const int64_t> order) {
  if (values.empty()) return;
  const size_t width = values.size() / order.size();
  std::vector<T> out(values.size());
  for (size_t r = 0; r < order.size(); ++r)
    std::copy_n(values.begin() + order[r] * static_cast<int64_t>(width), width, out.begin() + r * width);
  values = std::move(out);
}

}  // namespace

QuantizedMatrix permute_rows(const QuantizedMatrix& m, std::span<const int64_t> order) {
  QuantizedMatrix out = m;
  permute(out.codes, order);
  permute(out.scales, order);
  permute(out.zeros, order);
  permute(out.minima, order);
  permute(out.super.scales, order);
  permute(out.super.minima, order);
  permute(out.super.scale_codes, order);
  permute(out.super.minimum_codes, order);
  permute(out.outliers, order);
  return out;
}

}  // namespace retort
