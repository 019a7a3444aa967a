#include "quantize/tune/tuned_matrix.h"

#include <algorithm>
#include <cmath>

namespace retort {
namespace {

constexpr float kShare = 0.9f;  // of a weight's distance from its code

// The number nearest to start * (1 + kStep * offset); the start itself where that leaves the range of f16.
float moved(float start, float offset, ScaleType type) {
  const float value = round_scale(start * (1 + TunedMatrix::kStep * offset), type);
  return value != 0 && std::isfinite(value) ? value : start;
}

void move_all(std::span<const float> start, std::span<const float> offsets, ScaleType type, std::vector<float>& out) {
  for (size_t i = 0; i < start.size(); ++i) out[i] = moved(start[i], offsets[i], type);
}

}  // namespace

TunedMatrix::TunedMatrix(QuantizedMatrix& matrix, bool codes, ScaleType scale_type)
    : matrix_(matrix),
      codes_(codes),
      scale_type_(scale_type),
      levels_(levels_of(matrix.scheme.book)),
      groups_per_unit_(matrix.scheme.unit_size(matrix.cols) / matrix.scheme.group_size(matrix.cols)),
      units_(matrix.scheme.granularity == Granularity::kTensor ? 1 : stored_scales().size()),
      scales_(stored_scales().begin(), stored_scales().begin() + static_cast<int64_t>(units_)) {
  if (matrix.scheme.has_minima()) minima_ = stored_minima();
  if (codes) start_ = matrix.codes;
  kept_.resize(static_cast<size_t>(matrix.cols));
  for (const int32_t column : matrix.outlier_columns) kept_[static_cast<size_t>(column)] = 1;
}

int64_t TunedMatrix::parameters() const {
  return static_cast<int64_t>(scales_.size() + minima_.size() + start_.size());
}

size_t TunedMatrix::unit(int64_t row, int64_t group) const {
  return units_ == 1 ? 0 : static_cast<size_t>((row * matrix_.groups() + group) / groups_per_unit_);
}

float TunedMatrix::level(int64_t row, int64_t group, int code) const {
  return levels_.empty() ? static_cast<float>(code - matrix_.zero(row, group)) : levels_[static_cast<size_t>(code)];
}

// By how much the level rises from one code to the next, around `code`.
float TunedMatrix::slope(int code) const {
  if (levels_.empty()) return 1;
  const int low = std::max(code - 1, 0), high = std::min<int>(code + 1, matrix_.scheme.max_code());
  return (levels_[static_cast<size_t>(high)] - levels_[static_cast<size_t>(low)]) / static_cast<float>(high - low);
}

void TunedMatrix::begin(std::span<const float> weights, std::span<float> parameters) const {
  std::ranges::fill(parameters, 0.0f);
  if (!codes_) return;
  const std::span offsets = parameters.subspan(scales_.size() + minima_.size());
  std::vector<float> decoded(static_cast<size_t>(matrix_.cols));
  for (int64_t row = 0; row < matrix_.rows; ++row) {
    dequantize_rows(matrix_, row, 1, decoded);
    for (int64_t col = 0; col < matrix_.cols; ++col) {
      const auto at = static_cast<size_t>(row * matrix_.cols + col);
      const float step =
          matrix_.scales[static_cast<size_t>(row * matrix_.groups() + matrix_.group_of(col))] * slope(start_[at]);
      if (step == 0 || kept_[static_cast<size_t>(col)]) continue;
      const float distance = (weights[at] - decoded[static_cast<size_t>(col)]) / step;
      if (std::abs(distance) < 0.5f) offsets[at] = kShare * distance;
    }
  }
}

void TunedMatrix::set(std::span<const float> parameters) {
  set_scales(parameters);
  if (codes_) set_codes(parameters.subspan(scales_.size() + minima_.size()));
}

void TunedMatrix::restore() {
  std::ranges::copy(start_, matrix_.codes.begin());
  set_scales(std::vector<float>(scales_.size() + minima_.size()));
}

void TunedMatrix::set_codes(std::span<const float> offsets) {
  const auto most = static_cast<float>(matrix_.scheme.max_code());
  for (size_t i = 0; i < start_.size(); ++i)
    matrix_.codes[i] = static_cast<uint8_t>(std::clamp(std::nearbyint(start_[i] + offsets[i]), 0.0f, most));
}

void TunedMatrix::set_scales(std::span<const float> parameters) {
  move_all(scales_, parameters, scale_type_, stored_scales());
  if (!minima_.empty()) move_all(minima_, parameters.subspan(scales_.size()), ScaleType::kF16, stored_minima());
  if (units_ == 1) std::ranges::fill(matrix_.scales, matrix_.scales.front());
  if (matrix_.scheme.is_super_block()) expand_super_scales(matrix_, 0, matrix_.rows);
}

void TunedMatrix::gradient(std::span<const float> by_weights, std::span<float> by_parameters) const {
  std::vector<double> by_scale(scales_.size()), by_minimum(minima_.size());
  const std::span offsets = by_parameters.subspan(scales_.size() + minima_.size());
  for (int64_t row = 0; row < matrix_.rows; ++row)
    for (int64_t col = 0; col < matrix_.cols; ++col) {
      const int64_t group = matrix_.group_of(col);
      const auto at = static_cast<size_t>(row * matrix_.cols + col);
      const auto of_row = static_cast<size_t>(row * matrix_.groups() + group);
      const int code = matrix_.codes[at];
      const float slope_here = by_weights[at];
      const float times = matrix_.super.scale_codes.empty() ? 1.0f : matrix_.super.scale_codes[of_row];
      by_scale[unit(row, group)] += static_cast<double>(slope_here) * times * level(row, group, code);
      if (!minima_.empty()) {
        const float less = matrix_.super.minimum_codes.empty() ? 1.0f : matrix_.super.minimum_codes[of_row];
        by_minimum[unit(row, group)] -= static_cast<double>(slope_here) * less;
      }
      if (codes_) offsets[at] = kept_[static_cast<size_t>(col)] ? 0 : slope_here * matrix_.scales[of_row] * slope(code);
    }
  for (size_t i = 0; i < scales_.size(); ++i) by_parameters[i] = static_cast<float>(by_scale[i] * scales_[i] * kStep);
  for (size_t i = 0; i < minima_.size(); ++i)
    by_parameters[scales_.size() + i] = static_cast<float>(by_minimum[i] * minima_[i] * kStep);
}

}  // namespace retort
