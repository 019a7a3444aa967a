// The grid of one run of weights that share a scale: which scale and zero point, and the code of each weight.
// Values are scale * (code - zero); scales are positive and exact in f16, and codes are chosen with that f16 scale.
// (Blocks of q4_0 may have a negative scale: ggml's rule maps the value of largest magnitude to code 0.)
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/pack/scheme.h"

namespace retort {

struct Grid {
  float scale = 0;
  uint8_t zero = 0;
};

// Finds grids with the smallest squared error. For a list of candidate ranges around the largest weight, each
// weight gets its nearest code, and the scale that fits these codes best in the least-squares sense is
// sum(w x l) / sum(w l^2), l = code - zero; the candidate that leaves the smallest error wins. One object per thread.
class GridFitter {
 public:
  explicit GridFitter(const Scheme& scheme);
  // `importance` weights the squared errors; empty: all alike. Values are finite. A group whose scale leaves the
  // range of f16 gives an infinite scale: the caller refuses it.
  Grid fit(std::span<const float> values, std::span<const float> importance = {});

 private:
  struct Fit {
    float scale = 0;
    double gain = -1;  // by how much the squared error falls below that of all zeros
  };
  void load(std::span<const float> values, std::span<const float> importance);
  Fit fit_scale(float inverse_scale, float zero, bool weighted) const;
  Fit best_scale(float unit, float zero, bool weighted) const;

  Scheme scheme_;
  std::vector<float> values_, importance_;  // padded with zeros to whole vectors
};

// The nearest code (ties to even) of each value on `grid`.
void encode(const Scheme& scheme, const Grid& grid, std::span<const float> values, std::span<uint8_t> codes);

float round_to_f16(float value);

}  // namespace retort
