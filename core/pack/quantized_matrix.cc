#include "core/pack/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "core/base/error.h"

namespace retort {
namespace {

template <typename T>
bool all_equal(const std::vector<T>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
}

}  // namespace

QuantizedMatrix make_quantized(const Scheme& scheme, int64_t rows, int64_t cols) {
  QuantizedMatrix m{
      .scheme = scheme, .rows = rows, .cols = cols, .codes = {}, .scales = {}, .zeros = {}, .column_group = {}};
  const auto scales = static_cast<size_t>(rows * m.groups());
  m.codes.resize(static_cast<size_t>(rows * cols));
  m.scales.resize(scales);
  if (!scheme.symmetric) m.zeros.resize(scales);
  return m;
}

void dequantize_rows(const QuantizedMatrix& m, int64_t first, int64_t count, std::span<float> out) {
  const int64_t groups = m.groups();
  for (int64_t r = 0; r < count; ++r) {
    const uint8_t* codes = m.codes.data() + (first + r) * m.cols;
    const float* scales = m.scales.data() + (first + r) * groups;
    float* values = out.data() + r * m.cols;
    for (int64_t c = 0; c < m.cols; ++c) {
      const int64_t group = m.group_of(c);
      values[c] = scales[group] * static_cast<float>(codes[c] - m.zero(first + r, group));
    }
  }
}

void check_matrix(const QuantizedMatrix& m, std::string_view subject) {
  const auto scales = static_cast<size_t>(m.rows * m.groups());
  const auto bad = [&](const char* reason) { fail("quantized matrix", subject, reason); };
  if (!m.scheme.fits(m.cols)) bad("the group size does not divide the row length");
  if (m.codes.size() != static_cast<size_t>(m.rows * m.cols)) bad("the number of codes does not fit the shape");
  if (m.scales.size() != scales) bad("the number of scales does not fit the shape");
  if (m.scheme.symmetric ? !m.zeros.empty() : m.zeros.size() != scales) bad("the number of zero points is wrong");
  const auto above = [&](uint8_t code) { return code > m.scheme.max_code(); };
  if (std::any_of(m.codes.begin(), m.codes.end(), above)) bad("a code is out of range");
  if (std::any_of(m.zeros.begin(), m.zeros.end(), above)) bad("a zero point is out of range");
  if (!std::all_of(m.scales.begin(), m.scales.end(), [](float s) { return std::isfinite(s); }))
    bad("a scale is not finite");
  if (!std::all_of(m.scales.begin(), m.scales.end(), [](float s) { return f16_to_f32(f32_to_f16(s)) == s; }))
    bad("a scale is not an f16 value");
  if (m.scheme.granularity == Granularity::kTensor && !(all_equal(m.scales) && all_equal(m.zeros)))
    bad("the rows of a matrix with one scale for the tensor have different ones");
  if (m.column_group.empty()) return;
  if (m.column_group.size() != static_cast<size_t>(m.cols)) bad("the group index does not name every column");
  for (const int32_t group : m.column_group)
    if (group < 0 || group >= m.groups()) bad("a group index is out of range");
}

QuantizedMatrix permute_rows(const QuantizedMatrix& m, std::span<const int64_t> order) {
  QuantizedMatrix out = m;
  const int64_t groups = m.groups();
  for (int64_t r = 0; r < m.rows; ++r) {
    const int64_t from = order[static_cast<size_t>(r)];
    std::copy_n(m.codes.begin() + from * m.cols, m.cols, out.codes.begin() + r * m.cols);
    std::copy_n(m.scales.begin() + from * groups, groups, out.scales.begin() + r * groups);
    if (!m.zeros.empty()) std::copy_n(m.zeros.begin() + from * groups, groups, out.zeros.begin() + r * groups);
  }
  return out;
}

}  // namespace retort
