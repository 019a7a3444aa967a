// The grid of a run of weights that share a scale: which scale, zero point and minimum, and the code of each weight.
// Values are scale * level - minimum (core/pack/scheme.h); codes are chosen with the scale as it will be stored.
// Scales are positive but in symmetric blocks of GGUF, whose uneven range (-8 .. 7) may be turned over.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/pack/quantized_matrix.h"

namespace retort {

struct Grid {
  float scale = 0;
  uint8_t zero = 0;
  float minimum = 0;
};

// The grids of one unit (Scheme::unit_size columns of a row): of one group, or of the groups of a super-block with
// the numbers that they are products of.
struct UnitGrids {
  std::array<Grid, 16> groups;
  float scale = 0, minimum = 0;  // of the super-block, f16 values
  std::array<int8_t, 16> scale_codes = {};
  std::array<uint8_t, 16> minimum_codes = {};
};

// How wide a grid is: as wide as the largest weight needs, or what leaves the smallest squared error.
enum class GridRule : uint8_t { kSmallestError, kLargestWeight };

struct GridCandidates;  // grid.cc
struct GridTotals;

// Finds grids. For a list of candidate ranges around the largest weight, each weight gets its nearest code, and the
// scale (and minimum) that fits these codes best in the least-squares sense is found; the candidate that leaves the
// smallest error wins. In a super-block the groups are fitted one by one; then the scale of the super-block is the
// candidate with which the groups' integers lose least, by the curvature of the groups' errors, then the minimum; at
// last both are fitted once more to the codes that came out. One object per thread.
class GridFitter {
 public:
  explicit GridFitter(const Scheme& scheme, GridRule rule = GridRule::kSmallestError);
  // `importance` weights the squared errors; empty: all alike. Values are finite. A group whose scale leaves the
  // range of f16 gives an infinite scale: the caller refuses it.
  Grid fit(std::span<const float> values, std::span<const float> importance = {});  // not for super-blocks
  void fit_unit(std::span<const float> values, std::span<const float> importance, UnitGrids& grids);

 private:
  // A group's best grid before anything is rounded, and how its error grows around it: the weighted sums of level^2,
  // level and 1.
  struct Fit {
    double scale = 0, minimum = 0;
    float zero = 0;
    double gain = -1;  // by how much the squared error falls below that of all zeros
    double square = 0, level = 0, weight = 0;
  };
  Fit fit_group(std::span<const float> values, std::span<const float> importance);
  void load(std::span<const float> values, std::span<const float> importance);
  void try_candidates(const GridCandidates& candidates, Fit& best) const;
  void take_lane(const GridTotals& totals, int64_t lane, float zero, Fit& best) const;
  void try_widths(double unit, double least, float zero, Fit& best) const;
  void try_around(Fit& best) const;
  void choose_super_scale(std::span<const Fit> fits, UnitGrids& grids) const;
  void choose_super_minimum(std::span<const Fit> fits, UnitGrids& grids) const;
  void expand(UnitGrids& grids) const;
  void refit(std::span<const float> values, std::span<const float> importance, UnitGrids& grids);

  Scheme scheme_;
  GridRule rule_;
  int64_t groups_ = 1;  // of a unit
  std::vector<float> values_, importance_;
  double value_sum_ = 0, weight_sum_ = 0;  // weighted sum of values; sum of weights
  std::vector<Fit> fits_;
  std::vector<uint8_t> codes_;
};

// The nearest code (ties to even, the lower level in a code book) of each value on `grid`.
void encode(const Scheme& scheme, const Grid& grid, std::span<const float> values, std::span<uint8_t> codes);
// Puts the grids of unit `unit` of `row` where the matrix has them.
void store_grids(const UnitGrids& grids, int64_t row, int64_t unit, QuantizedMatrix& matrix);

float round_to_f16(float value);

}  // namespace retort
