#include "quantize/grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/dtype.h"
#include "core/base/lanes.h"
#include "core/pack/block_types.h"

namespace retort {
namespace {

// The integer nearest to value / unit in [least, most].
float nearest_multiple(float value, float unit, float least, float most) {
  return unit == 0 ? 0.0f : (std::clamp(value / unit, least, most) + kRound) - kRound;
}

// What all values of a group have in common: levels are held in [low, high], and the code of the lowest is 0.
struct LinearGrid {
  float scale, inverse, minimum, low, high;
};

LinearGrid linear(const Grid& grid, float max_code) {
  const auto zero = static_cast<float>(grid.zero);
  return {grid.scale, grid.scale == 0 ? 0.0f : 1.0f / grid.scale, grid.minimum, -zero, max_code - zero};
}

// Levels are round((x + minimum) * inverse); what is no number becomes the lowest.
RETORT_INLINE void encode_integers(const float* __restrict values, size_t size, const LinearGrid& grid,
                                   uint8_t* __restrict codes, float* __restrict decoded) {
  const auto [scale, inverse, minimum, low, high] = grid;
  const int zero = static_cast<int>(low);
  for (size_t i = 0; i < size; ++i) {
    float level = (values[i] + minimum) * inverse;
    level = level > low ? level : low;
    level = level < high ? level : high;
    level = (level + kRound) - kRound;
    codes[i] = static_cast<uint8_t>(static_cast<int>(level) - zero);
    decoded[i] = scale * level - minimum;
  }
}

// In one function, as a call for each short group would take as long as its loop.
RETORT_EACH_ISA void encode_linear(std::span<const UnitGrids> units, size_t groups, size_t group, float max_code,
                                   const float* values, uint8_t* codes, float* decoded) {
  for (const UnitGrids& unit : units)
    for (size_t g = 0; g < groups; ++g, values += group, codes += group, decoded += group)
      encode_integers(values, group, linear(unit.groups[g], max_code), codes, decoded);
}

// The code of a level is the number of middles between neighbours that lie below.
RETORT_INLINE void encode_in_book(const float* __restrict values, size_t size, float scale, const float* levels,
                                  uint8_t* __restrict codes, float* __restrict decoded) {
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  for (size_t i = 0; i < size; ++i) {
    const float scaled = values[i] * inverse;
    int code = 0;
    for (size_t k = 0; k < 15; ++k) code += scaled > 0.5f * (levels[k] + levels[k + 1]) ? 1 : 0;
    codes[i] = static_cast<uint8_t>(code);
  }
  for (size_t i = 0; i < size; ++i) decoded[i] = scale * levels[codes[i]];
}

RETORT_EACH_ISA void encode_book(std::span<const UnitGrids> units, size_t groups, size_t group, const float* levels,
                                 const float* values, uint8_t* codes, float* decoded) {
  for (const UnitGrids& unit : units)
    for (size_t g = 0; g < groups; ++g, values += group, codes += group, decoded += group)
      encode_in_book(values, group, unit.groups[g].scale, levels, codes, decoded);
}

void round_scales(GroupLanes& scales, ScaleType type) {
  if (type == ScaleType::kF16) return round_to_f16(scales);
  for (int64_t lane = 0; lane < kGroupLanes; ++lane) scales[lane] = round_scale(scales[lane], type);
}

}  // namespace

float round_to_f16(float value) { return f16_to_f32(f32_to_f16(value)); }

// Below 2^-16 the numbers of f16 have no more digits than those of bf16, above they have all of bf16's.
float round_scale(float value, ScaleType type) {
  const bool shorter = type == ScaleType::kPortable && std::abs(value) >= 0x1p-16f;
  return round_to_f16(shorter ? bf16_to_f32(f32_to_bf16(value)) : value);
}

GridFitter::GridFitter(const Scheme& scheme, GridRule rule, ScaleType scale_type)
    : scheme_(scheme), rule_(rule), scale_type_(scale_type), search_(scheme, rule) {
  if (scheme.is_super_block()) groups_ = static_cast<size_t>(scheme.unit_size(0) / scheme.group);
}

// Takes `groups` groups from the `first` on; the lanes that are left repeat the first of their tile.
void GridFitter::load(std::span<const float> values, std::span<const float> importance, size_t first, size_t groups) {
  constexpr auto kWidth = static_cast<size_t>(kGroupLanes);
  values_.resize(2 * kWidth * group_size_);
  importance_.resize(weighted_ ? values_.size() : 0);
  for (size_t begin = 0; begin < groups; begin += kWidth) {
    std::array<const float*, kWidth> from, weights;
    for (size_t lane = 0; lane < kWidth; ++lane) {
      const size_t group = first + (begin + lane < groups ? begin + lane : begin);
      from[lane] = values.data() + group * group_size_;
      if (weighted_) weights[lane] = importance.data() + group * group_size_ % importance.size();
    }
    const auto size = static_cast<int64_t>(group_size_);
    interleave(from.data(), size, reinterpret_cast<GroupLanes*>(values_.data() + begin * group_size_));
    if (weighted_)
      interleave(weights.data(), size, reinterpret_cast<GroupLanes*>(importance_.data() + begin * group_size_));
  }
}

GroupTile GridFitter::tile(size_t first) const {
  const size_t at = first * group_size_;
  return {reinterpret_cast<const GroupLanes*>(values_.data() + at),
          weighted_ ? reinterpret_cast<const GroupLanes*>(importance_.data() + at) : nullptr,
          static_cast<int64_t>(group_size_)};
}

Grid GridFitter::fit(std::span<const float> values, std::span<const float> importance) {
  UnitGrids grids;
  fit_unit(values, importance, grids);
  return grids.groups[0];
}

void GridFitter::fit_unit(std::span<const float> values, std::span<const float> importance, UnitGrids& grids) {
  fit_units(values, importance, {&grids, 1});
}

void GridFitter::fit_units(std::span<const float> values, std::span<const float> importance,
                           std::span<UnitGrids> grids) {
  group_size_ = values.size() / grids.size() / groups_;
  weighted_ = !importance.empty();
  if (scheme_.granularity == Granularity::kTensor && group_size_ % kGroupLanes == 0)
    return fit_joined(values, importance, grids.front());
  const size_t most = groups_ > 1 ? 1 : kGroupLanes;
  for (size_t first = 0; first < grids.size(); first += most) {
    const std::span some = grids.subspan(first, std::min(most, grids.size() - first));
    load(values, importance, first * groups_, some.size() * groups_);
    if (groups_ > 1)
      fit_super_block(some.front());
    else
      fit_groups(tile(0), some);
  }
}

// One group that may be a whole matrix: its parts are the lanes, where they lie.
void GridFitter::fit_joined(std::span<const float> values, std::span<const float> importance, UnitGrids& grids) {
  fit_groups({reinterpret_cast<const GroupLanes*>(values.data()),
              weighted_ ? reinterpret_cast<const GroupLanes*>(importance.data()) : nullptr,
              static_cast<int64_t>(group_size_) / kGroupLanes, /*joined=*/true},
             {&grids, 1});
}

void GridFitter::fit_groups(const GroupTile& tile, std::span<UnitGrids> grids) {
  GroupFits& fits = fits_[0];
  search_grids(search_, tile, fits);
  round_scales(fits.scale, scale_type_);
  round_to_f16(fits.minimum);
  for (size_t lane = 0; lane < grids.size(); ++lane)
    grids[lane].groups[0] = {fits.scale[lane], static_cast<uint8_t>(fits.zero[lane]), fits.minimum[lane]};
}

// Candidates put the largest scale of the groups on the largest integers.
void GridFitter::choose_super_scale(const GroupNumbers& fits, UnitGrids& grids) const {
  const BlockInfo& info = block_info(scheme_.block);
  std::array<float, kMostGroups> curvatures = {};
  float extreme = 0;
  for (size_t g = 0; g < groups_; ++g) {
    const bool moves = scheme_.has_minima() && fits.weight[g] > 0;  // the minimum along with the scale
    curvatures[g] = fits.square[g] - (moves ? fits.level[g] * fits.level[g] / fits.weight[g] : 0.0f);
    if (std::abs(fits.scale[g]) > std::abs(extreme)) extreme = fits.scale[g];
  }
  const auto least = static_cast<float>(info.least_scale), most = static_cast<float>(info.most_scale);
  Multiples best = best_multiple(fits.scale.data(), curvatures.data(), extreme, most, least, most);
  if (least < 0) {
    const Multiples turned = best_multiple(fits.scale.data(), curvatures.data(), extreme, least, least, most);
    if (turned.loss < best.loss) best = turned;
  }
  grids.scale = best.unit;
  for (size_t g = 0; g < groups_; ++g)
    grids.scale_codes[g] = static_cast<int8_t>(nearest_multiple(fits.scale[g], best.unit, least, most));
}

// The minimum that suits a group's stored scale moves along with that scale.
void GridFitter::choose_super_minimum(const GroupNumbers& fits, UnitGrids& grids) const {
  const auto most = static_cast<float>(block_info(scheme_.block).most_minimum);
  std::array<float, kMostGroups> wanted = {};
  for (size_t g = 0; g < groups_; ++g) {
    const float moved = grids.scale * static_cast<float>(grids.scale_codes[g]) - fits.scale[g];
    wanted[g] = std::max(0.0f, fits.minimum[g] + (fits.weight[g] > 0 ? fits.level[g] / fits.weight[g] * moved : 0.0f));
  }
  grids.minimum =
      best_multiple(wanted.data(), fits.weight.data(), *std::ranges::max_element(wanted), most, 0, most).unit;
  for (size_t g = 0; g < groups_; ++g)
    grids.minimum_codes[g] = static_cast<uint8_t>(nearest_multiple(wanted[g], grids.minimum, 0, most));
}

void GridFitter::expand(UnitGrids& grids) const {
  for (size_t g = 0; g < groups_; ++g)
    grids.groups[g] = {grids.scale * static_cast<float>(grids.scale_codes[g]),
                       scheme_.symmetric ? scheme_.middle() : uint8_t{0},
                       grids.minimum * static_cast<float>(grids.minimum_codes[g])};
}

void GridFitter::gather(GroupNumbers& numbers) const {
  numbers = {};
  for (size_t g = 0; g < groups_; ++g) {
    const GroupFits& fits = fits_[g / kGroupLanes];
    const GroupTotals& totals = fits.totals;
    const size_t lane = g % kGroupLanes;
    numbers.scale[g] = fits.scale[lane], numbers.minimum[g] = fits.minimum[lane];
    numbers.square[g] = totals.square[lane], numbers.level[g] = totals.level[lane];
    numbers.product[g] = totals.product[lane], numbers.value[g] = totals.value[lane];
    numbers.weight[g] = totals.weight[lane];
  }
}

// Least squares for the two numbers of the super-block, with the codes and the groups' integers as they are.
void GridFitter::refit(UnitGrids& grids) {
  for (size_t g = 0; g < groups_; ++g) {
    GroupFits& fits = fits_[g / kGroupLanes];
    fits.scale[g % kGroupLanes] = grids.groups[g].scale, fits.minimum[g % kGroupLanes] = grids.groups[g].minimum;
  }
  for (size_t t = 0; t * kGroupLanes < groups_; ++t) sum_levels(search_, tile(t * kGroupLanes), fits_[t]);
  GroupNumbers sums;
  gather(sums);
  double ss = 0, sm = 0, mm = 0, xs = 0, xm = 0;
  for (size_t g = 0; g < groups_; ++g) {
    const double s = grids.scale_codes[g], m = -static_cast<double>(grids.minimum_codes[g]);
    ss += s * s * sums.square[g], sm += s * m * sums.level[g], mm += m * m * sums.weight[g];
    xs += s * sums.product[g], xm += m * sums.value[g];
  }
  const double determinant = ss * mm - sm * sm;
  if (mm > 0 && determinant > 1e-7 * ss * mm) {
    grids.scale = round_to_f16(static_cast<float>((xs * mm - xm * sm) / determinant));
    grids.minimum = round_to_f16(static_cast<float>((xm * ss - xs * sm) / determinant));
  } else if (mm == 0 && ss > 0) {
    grids.scale = round_to_f16(static_cast<float>(xs / ss));
  }
}

void GridFitter::fit_super_block(UnitGrids& grids) {
  for (size_t t = 0; t * kGroupLanes < groups_; ++t) search_grids(search_, tile(t * kGroupLanes), fits_[t]);
  GroupNumbers fits;
  gather(fits);
  grids = {};
  if (!std::ranges::all_of(fits.scale, [](float scale) { return std::isfinite(scale); })) {
    grids.groups[0].scale = std::numeric_limits<float>::infinity();
    return;
  }
  choose_super_scale(fits, grids);
  if (scheme_.has_minima()) choose_super_minimum(fits, grids);
  expand(grids);
  if (rule_ == GridRule::kLargestWeight) return;
  refit(grids);
  expand(grids);
}

void encode_units(const Scheme& scheme, std::span<const UnitGrids> units, size_t groups, std::span<const float> values,
                  std::span<uint8_t> codes, std::span<float> decoded) {
  const size_t group = values.size() / units.size() / groups;
  if (const auto levels = levels_of(scheme.book); !levels.empty())
    return encode_book(units, groups, group, levels.data(), values.data(), codes.data(), decoded.data());
  encode_linear(units, groups, group, scheme.max_code(), values.data(), codes.data(), decoded.data());
}

void encode(const Scheme& scheme, const Grid& grid, std::span<const float> values, std::span<uint8_t> codes) {
  std::vector<float> decoded(values.size());
  const UnitGrids unit{.groups = {grid}};
  encode_units(scheme, {&unit, 1}, 1, values, codes, decoded);
}

void store_grids(std::span<const UnitGrids> units, int64_t first_unit, QuantizedMatrix& m) {
  const auto groups = static_cast<size_t>(m.scheme.unit_size(m.cols) / m.scheme.group_size(m.cols));
  auto group = static_cast<size_t>(first_unit) * groups, block = static_cast<size_t>(first_unit);
  for (const UnitGrids& grids : units) {
    for (size_t g = 0; g < groups; ++g, ++group) {
      m.scales[group] = grids.groups[g].scale;
      if (!m.zeros.empty()) m.zeros[group] = grids.groups[g].zero;
      if (!m.minima.empty()) m.minima[group] = grids.groups[g].minimum;
      if (!m.super.scale_codes.empty()) m.super.scale_codes[group] = grids.scale_codes[g];
      if (!m.super.minimum_codes.empty()) m.super.minimum_codes[group] = grids.minimum_codes[g];
    }
    if (!m.super.scales.empty()) m.super.scales[block] = grids.scale;
    if (!m.super.minima.empty()) m.super.minima[block] = grids.minimum;
    ++block;
  }
}

void store_grids(const UnitGrids& grids, int64_t row, int64_t unit, QuantizedMatrix& m) {
  store_grids({&grids, 1}, row * (m.cols / m.scheme.unit_size(m.cols)) + unit, m);
}

}  // namespace retort
