#include "tests/support/memory_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/pack/block_types.h"

namespace retort::testing {
namespace {

struct Range {
  float low = 0, high = 0;
  void include(float value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

float random_scale(Random& random, double least) {
  return f16_to_f32(f32_to_f16(static_cast<float>(least * (1 + 10 * random.uniform()))));
}

void randomize_super_scales(QuantizedMatrix& m, Random& random) {
  const BlockInfo& info = block_info(m.scheme.block);
  for (auto& scale : m.super.scales) scale = random_scale(random, 3e-5);
  for (auto& minimum : m.super.minima) minimum = random_scale(random, 3e-5);
  for (auto& code : m.super.scale_codes)
    code = static_cast<int8_t>(info.least_scale + random.below(info.most_scale - info.least_scale + 1));
  for (auto& code : m.super.minimum_codes) code = static_cast<uint8_t>(random.below(info.most_minimum + 1));
  expand_super_scales(m, 0, m.rows);
}

}  // namespace

QuantizedMatrix random_quantized(const Scheme& scheme, int64_t rows, int64_t cols, Random& random) {
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  const int64_t codes = int64_t{1} << scheme.bits;
  for (auto& code : m.codes) code = static_cast<uint8_t>(random.below(codes));
  for (auto& zero : m.zeros) zero = static_cast<uint8_t>(random.below(codes));
  for (auto& scale : m.scales) scale = random_scale(random, 1e-3);
  for (auto& minimum : m.minima) minimum = random_scale(random, 1e-3);
  if (scheme.is_super_block()) randomize_super_scales(m, random);
  return m;
}

QuantizedMatrix round_to_nearest(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const float> values,
                                 std::vector<int32_t> column_group) {
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  m.column_group = std::move(column_group);
  const int64_t groups = m.groups();
  const auto most = static_cast<float>(scheme.max_code());
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<Range> ranges(static_cast<size_t>(groups));
    for (int64_t c = 0; c < cols; ++c)
      ranges[static_cast<size_t>(m.group_of(c))].include(values[static_cast<size_t>(r * cols + c)]);
    for (int64_t g = 0; g < groups; ++g) {
      const auto [low, high] = ranges[static_cast<size_t>(g)];
      const auto at = static_cast<size_t>(r * groups + g);
      const float scale = scheme.symmetric ? std::max(-low, high) / static_cast<float>(scheme.middle() - 1)
                                           : (high - low) / static_cast<float>(scheme.max_code());
      m.scales[at] = f16_to_f32(f32_to_f16(scale));
      if (!scheme.symmetric && m.scales[at] > 0)
        m.zeros[at] = static_cast<uint8_t>(std::clamp(-low / m.scales[at] + 0.5f, 0.0f, most));
    }
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t g = m.group_of(c);
      const float scale = m.scales[static_cast<size_t>(r * groups + g)];
      const float code = scale > 0 ? values[static_cast<size_t>(r * cols + c)] / scale : 0.0f;
      m.codes[static_cast<size_t>(r * cols + c)] =
          static_cast<uint8_t>(std::clamp(std::nearbyint(code) + static_cast<float>(m.zero(r, g)), 0.0f, most));
    }
  }
  return m;
}

void keep_columns(QuantizedMatrix& m, std::span<const float> values, std::vector<int32_t> columns) {
  m.outlier_columns = std::move(columns);
  m.outliers.clear();
  for (int64_t r = 0; r < m.rows; ++r)
    for (const int32_t c : m.outlier_columns) {
      const auto at = static_cast<size_t>(r * m.cols + c);
      m.codes[at] = m.zero(r, m.group_of(c));
      m.outliers.push_back(f16_to_f32(f32_to_f16(values[at])));
    }
}

std::vector<int32_t> shuffled_groups(const Scheme& scheme, int64_t cols, uint64_t seed) {
  std::vector<int32_t> groups(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) groups[static_cast<size_t>(c)] = static_cast<int32_t>(c / scheme.group_size(cols));
  Random random(seed);
  for (int64_t c = cols; c > 1; --c)
    std::swap(groups[static_cast<size_t>(c - 1)], groups[static_cast<size_t>(random.below(c))]);
  return groups;
}

MemorySource::MemorySource(const TinyModel& model, const Scheme& linear, bool shuffle_groups, int64_t outliers)
    : config_(parse_config(tiny_config(model), "memory")) {
  auto weights = tiny_weights(model);
  for (const ExpectedTensor& expected : expected_tensors(config_))
    add(expected, linear, linear.dense.value_or(model.dtype), std::move(weights.at(expected.name)), shuffle_groups,
        outliers);
}

MemorySource::MemorySource(const ModelSource& source, const Scheme& linear) : config_(source.config()) {
  for (const ExpectedTensor& expected : expected_tensors(config_)) {
    const ModelTensor& tensor = source.at(expected.name);
    add(expected, linear, tensor.scheme.dense.value_or(DType::kF32), source.read_f32(tensor), false, 0);
  }
}

void MemorySource::add(const ExpectedTensor& expected, const Scheme& linear, DType dense, std::vector<float> values,
                       bool shuffle_groups, int64_t outliers) {
  if (expected.rule->input == Input::kNone || linear.is_dense()) {
    add_dense(expected.name, expected.shape, dense, std::move(values));
    return;
  }
  const int64_t rows = expected.shape[0], cols = expected.shape[1];
  const Scheme scheme = linear.fits(cols) ? linear : fallback_scheme(linear);
  std::vector<int32_t> groups;
  if (shuffle_groups) groups = shuffled_groups(scheme, cols, static_cast<uint64_t>(rows));
  QuantizedMatrix matrix = round_to_nearest(scheme, rows, cols, values, std::move(groups));
  std::vector<int32_t> kept;
  for (int64_t k = 0; k < outliers; ++k) kept.push_back(static_cast<int32_t>((2 * k + 1) * cols / (2 * outliers)));
  keep_columns(matrix, values, std::move(kept));
  add_quantized(expected.name, std::move(matrix));
}

const ModelTensor& MemorySource::add_dense(const std::string& name, const std::vector<int64_t>& shape, DType dtype,
                                           std::vector<float> values) {
  const Scheme scheme = parse_scheme(name_of(dtype));
  std::vector<std::byte> stored(values.size() * size_of(dtype));
  encode_from_f32(dtype, values, stored);
  decode_to_f32(dtype, stored, values);
  values_.emplace(name, std::move(values));
  return tensors_.emplace_back(ModelTensor{.name = name, .shape = shape, .scheme = scheme, .bytes = 0});
}

const ModelTensor& MemorySource::add_quantized(const std::string& name, QuantizedMatrix matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  dequantize_rows(matrix, 0, matrix.rows, values);
  values_.emplace(name, std::move(values));
  tensors_.push_back({.name = name,
                      .shape = {matrix.rows, matrix.cols},
                      .scheme = matrix.scheme,
                      .bytes = 0,
                      .outliers = static_cast<int64_t>(matrix.outlier_columns.size())});
  quantized_.emplace(name, std::move(matrix));
  return tensors_.back();
}

void MemorySource::read_f32(const ModelTensor& tensor, int64_t first, int64_t count, std::span<float> out) const {
  std::copy_n(values_.at(tensor.name).begin() + first * tensor.cols(), count * tensor.cols(), out.begin());
}

void MemorySource::read_dense(const ModelTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out) const {
  const auto& values = values_.at(tensor.name);
  const auto from = static_cast<size_t>(first * tensor.cols()), elements = static_cast<size_t>(count * tensor.cols());
  encode_from_f32(*tensor.scheme.dense, std::span(values).subspan(from, elements), out);
}

QuantizedMatrix MemorySource::read_quantized_rows(const ModelTensor& tensor, int64_t first, int64_t count) const {
  QuantizedMatrix m = quantized_.at(tensor.name);
  const auto cut = [&](auto& values) {
    const auto per_row = static_cast<int64_t>(values.size()) / tensor.rows();
    values = {values.begin() + first * per_row, values.begin() + (first + count) * per_row};
  };
  cut(m.codes);
  cut(m.scales);
  cut(m.zeros);
  cut(m.outliers);
  cut(m.minima);
  cut(m.super.scales);
  cut(m.super.minima);
  cut(m.super.scale_codes);
  cut(m.super.minimum_codes);
  m.rows = count;
  return m;
}

}  // namespace retort::testing
