// What can be trained of a quantized matrix: its scales and minima and, when asked, its codes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/pack/quantized_matrix.h"
#include "quantize/grid.h"

namespace retort {

// Parameters are offsets from the matrix as it was solved, in units in which steps of one size suit all of them:
// - a scale s (of a super-block, a group, a row or the matrix: whatever is stored in f16) becomes s * (1 + kStep * p),
//   likewise a minimum; both rounded to what is stored, so that every step is taken from numbers that the format holds;
// - a code k becomes k + p, rounded and kept within the scheme. Its gradient passes the rounding unchanged, as in
//   arXiv:2309.05516 (section 3): p is the offset V there, free to cross more than one code.
// Zero points, the integers of super-blocks and columns in 16 bits stay.
class TunedMatrix {
 public:
  static constexpr float kStep = 0.3f;

  // `matrix` must outlive this object, which changes it in place.
  TunedMatrix(QuantizedMatrix& matrix, bool codes, ScaleType scale_type = ScaleType::kF16);
  int64_t parameters() const;
  // The parameters to begin with: all 0, but where a code is the nearest to its weight [rows * cols], it begins close
  // to where the weight lies. Codes that a solver took from further away begin in their middle.
  void begin(std::span<const float> weights, std::span<float> parameters) const;
  void set(std::span<const float> parameters);
  void restore();  // the matrix as it was solved
  // From the gradient by the decoded weights [rows * cols], at the parameters set last, to that by the parameters.
  void gradient(std::span<const float> by_weights, std::span<float> by_parameters) const;

 private:
  size_t unit(int64_t row, int64_t group) const;
  void set_codes(std::span<const float> offsets);
  void set_scales(std::span<const float> parameters);
  std::vector<float>& stored_scales() {
    return matrix_.scheme.is_super_block() ? matrix_.super.scales : matrix_.scales;
  }
  std::vector<float>& stored_minima() {
    return matrix_.scheme.is_super_block() ? matrix_.super.minima : matrix_.minima;
  }
  float level(int64_t row, int64_t group, int code) const;
  float slope(int code) const;

  QuantizedMatrix& matrix_;
  bool codes_;
  ScaleType scale_type_;
  std::span<const float> levels_;       // of the code book; empty: linear
  int64_t groups_per_unit_;             // groups that share a stored scale, within a row
  size_t units_;                        // stored scales that differ
  std::vector<float> scales_, minima_;  // as solved
  std::vector<uint8_t> start_;          // codes as solved; empty when they stay
  std::vector<uint8_t> kept_;           // by column: 1 where it is kept in 16 bits
};

}  // namespace retort
