// The grid of a run of weights that share a scale: which scale, zero point and minimum, and the code of each weight.
// Values are scale * level - minimum (core/pack/scheme.h); codes are chosen with the scale as it will be stored.
// Scales are positive but in symmetric blocks of GGUF, whose uneven range (-8 .. 7) may be turned over.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/pack/quantized_matrix.h"
#include "quantize/grid_search.h"

namespace retort {

struct Grid {
  float scale = 0;
  uint8_t zero = 0;
  float minimum = 0;
};

// What a stored scale may be: any number of f16, or one that bf16 holds too (8 significant bits), so that programs
// which cast scales to the model's type keep it. Blocks of GGUF have f16 always.
enum class ScaleType : uint8_t { kF16, kPortable };

// The grids of one unit (Scheme::unit_size columns of a row): of one group, or of the groups of a super-block with
// the numbers that they are products of.
struct UnitGrids {
  std::array<Grid, 16> groups;
  float scale = 0, minimum = 0;  // of the super-block, f16 values
  std::array<int8_t, 16> scale_codes = {};
  std::array<uint8_t, 16> minimum_codes = {};
};

// Finds grids. For a list of candidate ranges around the largest weight, each weight gets its nearest code, and the
// scale (and minimum) that fits these codes best in the least-squares sense is found; the candidate that leaves the
// smallest error wins. In a super-block the groups are fitted one by one; then the scale of the super-block is the
// candidate with which the groups' integers lose least, by the curvature of the groups' errors, then the minimum; at
// last both are fitted once more to the codes that came out. One object per thread.
class GridFitter {
 public:
  explicit GridFitter(const Scheme& scheme, GridRule rule = GridRule::kSmallestError,
                      ScaleType scale_type = ScaleType::kF16);
  // `importance` weights the squared errors; empty: all alike. Values are finite. A group whose scale leaves the
  // range of f16 gives an infinite scale: the caller refuses it.
  Grid fit(std::span<const float> values, std::span<const float> importance = {});  // not for super-blocks
  void fit_unit(std::span<const float> values, std::span<const float> importance, UnitGrids& grids);
  // Many units side by side, a whole number of columns each; far faster than one by one. `importance`: as many as
  // there are values, or of one unit, which all share.
  void fit_units(std::span<const float> values, std::span<const float> importance, std::span<UnitGrids> grids);

 private:
  static constexpr size_t kMostGroups = 16;  // that are fitted together
  // The fits of the groups of one super-block, and what comes of them.
  struct GroupNumbers {
    std::array<float, kMostGroups> scale, minimum, square, level, weight, product, value;
  };
  void load(std::span<const float> values, std::span<const float> importance, size_t first, size_t groups);
  GroupTile tile(size_t first) const;
  void fit_joined(std::span<const float> values, std::span<const float> importance, UnitGrids& grids);
  void fit_groups(const GroupTile& tile, std::span<UnitGrids> grids);
  void fit_super_block(UnitGrids& grids);
  void gather(GroupNumbers& numbers) const;
  void choose_super_scale(const GroupNumbers& fits, UnitGrids& grids) const;
  void choose_super_minimum(const GroupNumbers& fits, UnitGrids& grids) const;
  void expand(UnitGrids& grids) const;
  void refit(UnitGrids& grids);

  Scheme scheme_;
  GridRule rule_;
  ScaleType scale_type_;
  GridSearch search_;
  size_t group_size_ = 0, groups_ = 1;  // groups of a unit
  bool weighted_ = false;
  std::vector<float> values_, importance_;  // of up to two tiles, interleaved
  std::array<GroupFits, 2> fits_;
};

// The nearest code (ties to even, the lower level in a code book) of each value on `grid`.
void encode(const Scheme& scheme, const Grid& grid, std::span<const float> values, std::span<uint8_t> codes);
// The same for units one after another with `groups` groups each, and what the codes stand for; `decoded` does not
// overlap the values.
void encode_units(const Scheme& scheme, std::span<const UnitGrids> units, size_t groups, std::span<const float> values,
                  std::span<uint8_t> codes, std::span<float> decoded);
// Puts the grids of unit `unit` of `row`, or of units one after another (row by row), where the matrix has them.
void store_grids(const UnitGrids& grids, int64_t row, int64_t unit, QuantizedMatrix& matrix);
void store_grids(std::span<const UnitGrids> units, int64_t first_unit, QuantizedMatrix& matrix);

float round_to_f16(float value);
// The nearest number of the type; infinite beyond its range.
float round_scale(float value, ScaleType type);

}  // namespace retort
