// Matrices for the solver tests.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

inline std::vector<float> gaussian(size_t size, float sigma, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

// `values` must outlive the task.
inline MatrixTask matrix_task(const std::vector<float>& values, int64_t cols, const std::string& scheme) {
  const auto rows = static_cast<int64_t>(values.size()) / cols;
  return {"matrix", rows, cols, parse_scheme(scheme),
          [&values, cols](int64_t first, int64_t count, std::span<float> out) {
            std::copy_n(values.begin() + first * cols, count * cols, out.begin());
          }};
}

inline std::vector<float> dequantize(const QuantizedMatrix& matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  dequantize_rows(matrix, 0, matrix.rows, values);
  return values;
}

}  // namespace retort
