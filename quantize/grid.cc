#include "quantize/grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/dtype.h"
#include "core/pack/block_types.h"
#include "quantize/lanes.h"

namespace retort {

// One candidate per lane: a weight x has the level round(x * inverse + shift), held in [least, most].
struct GridCandidates {
  Lanes inverse, shift, least, most;
  float zero = 0;
};

// The sums over a group's weights for each candidate.
struct GridTotals {
  Lanes product, square, level;  // of importance times: x * level, level^2, level
};

namespace {

constexpr float kTooSmall = 0x1p-26f, kTooLarge = 65504.0f;  // scales that f16 cannot hold

// Ranges to try, in units of the inverse scale that just holds the largest weight: above 1 the largest is clipped.
// Eight bits have little to win.
struct Range {
  double from, to;
};
Range widths_of(const Scheme& scheme) {
  if (scheme.book != CodeBook::kLinear) return {0.80, 1.40};
  switch (scheme.bits) {
    case 2: return {0.70, 2.20};
    case 3: return {0.75, 1.80};
    case 4: return {0.80, 1.55};
    case 8: return {1.0, 1.015};
    default: return {0.90, 1.25};
  }
}

// out = first + lane * step
RETORT_EACH_ISA void fill(Lanes& out, double first, double step) {
  constexpr Lanes kSteps = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  out = static_cast<float>(first) + static_cast<float>(step) * kSteps;
}

RETORT_EACH_ISA void sum_levels(const float* values, const float* importance, int64_t size,
                                const GridCandidates& candidates, GridTotals& totals) {
  const Lanes inverse = candidates.inverse, shift = candidates.shift, least = candidates.least, most = candidates.most;
  Lanes product = {}, square = {}, sum = {};
  for (int64_t i = 0; i < size; ++i) {
    Lanes level = values[i] * inverse + shift;
    level = level < least ? least : level;
    level = level > most ? most : level;
    level = (level + kRound) - kRound;
    const Lanes weighted = importance[i] * level;
    product += weighted * values[i];
    square += weighted * level;
    sum += weighted;
  }
  totals.product = product;
  totals.square = square;
  totals.level = sum;
}

// As above with the nearest of sixteen levels.
RETORT_EACH_ISA void sum_book_levels(const float* values, const float* importance, int64_t size, const float* levels,
                                     const GridCandidates& candidates, GridTotals& totals) {
  const Lanes inverse = candidates.inverse;
  Lanes product = {}, square = {};
  for (int64_t i = 0; i < size; ++i) {
    const Lanes scaled = values[i] * inverse;
    Lanes level = Lanes{} + levels[0];
    for (int64_t k = 1; k < kLanes; ++k) {
      const Lanes next = Lanes{} + levels[k];
      level = scaled > 0.5f * (levels[k - 1] + levels[k]) ? next : level;
    }
    const Lanes weighted = importance[i] * level;
    product += weighted * values[i];
    square += weighted * level;
  }
  totals.product = product;
  totals.square = square;
  totals.level = Lanes{};
}

// By how much the squared error falls below that of all zeros, for each candidate: with a minimum where it helps and
// is allowed, else with a scale alone; -1 without any level but 0.
RETORT_EACH_ISA void gains_of(const GridTotals& totals, float values, float weights, bool minima, bool signed_minima,
                              Lanes* gains) {
  const Lanes product = totals.product, square = totals.square, level = totals.level;
  const Lanes none = Lanes{} - 1.0f;
  Lanes gain = product * product / square;
  gain = square > 0.0f ? gain : none;
  if (minima) {
    const Lanes determinant = square * weights - level * level;
    const Lanes scale = (product * weights - level * values) / determinant;
    const Lanes minimum = (product * level - square * values) / determinant;
    const Lanes both = scale * product - minimum * values;
    const auto solved = (determinant > 1e-6f * square * weights) & (scale > 0.0f);
    gain = (solved & ((minimum >= 0.0f) | signed_minima)) ? both : gain;
  }
  *gains = gain;
}

// The integer nearest to value / unit in [least, most].
float nearest_multiple(float value, float unit, float least, float most) {
  return unit == 0 ? 0.0f : (std::clamp(value / unit, least, most) + kRound) - kRound;
}

// sum of weights * (value - unit * integer)^2 for sixteen units.
RETORT_EACH_ISA void losses_of(const float* values, const float* weights, const Lanes* units, float least, float most,
                               Lanes* losses) {
  const Lanes low = Lanes{} + least, high = Lanes{} + most, unit = *units;
  Lanes loss = {};
  for (int64_t g = 0; g < 16; ++g) {
    Lanes multiple = values[g] / unit;
    multiple = multiple < low ? low : multiple;
    multiple = multiple > high ? high : multiple;
    const Lanes miss = values[g] - unit * ((multiple + kRound) - kRound);
    loss += weights[g] * (miss * miss);
  }
  *losses = loss;
}

struct Multiples {
  float unit = 0, loss = std::numeric_limits<float>::infinity();
};

// The f16 unit whose multiples lie nearest to the values; candidates put `extreme` on `reach` and on integers below.
Multiples best_multiple(const std::array<float, 16>& values, const std::array<float, 16>& weights, float extreme,
                        float reach, float least, float most) {
  if (extreme == 0) return {0, 0};
  Lanes units, losses;
  for (int64_t i = 0; i < kLanes; ++i) {
    const float unit = round_to_f16(extreme / (reach * (1 - 0.016f * static_cast<float>(i))));
    units[i] = unit == 0 ? std::copysign(0x1p-24f, extreme / reach) : unit;
  }
  losses_of(values.data(), weights.data(), &units, least, most, &losses);
  Multiples best;
  for (int64_t i = 0; i < kLanes; ++i)
    if (losses[i] < best.loss) best = {units[i], losses[i]};
  return best;
}

uint8_t nearest_level(std::span<const float> levels, float value) {
  size_t code = 0;
  while (code + 1 < levels.size() && value > 0.5f * (levels[code] + levels[code + 1])) ++code;
  return static_cast<uint8_t>(code);
}

}  // namespace

float round_to_f16(float value) { return f16_to_f32(f32_to_f16(value)); }

GridFitter::GridFitter(const Scheme& scheme, GridRule rule) : scheme_(scheme), rule_(rule) {
  if (scheme.is_super_block()) groups_ = scheme.unit_size(0) / scheme.group;
}

void GridFitter::load(std::span<const float> values, std::span<const float> importance) {
  values_.assign(values.begin(), values.end());
  if (importance.empty())
    importance_.assign(values.size(), 1.0f);
  else
    importance_.assign(importance.begin(), importance.end());
  value_sum_ = weight_sum_ = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    value_sum_ += static_cast<double>(importance_[i]) * values_[i];
    weight_sum_ += importance_[i];
  }
}

// With a minimum m, the least-squares scale s solves s * square - m * level = product, s * level - m * weight = sum x.
void GridFitter::try_candidates(const GridCandidates& candidates, Fit& best) const {
  GridTotals totals;
  const auto size = static_cast<int64_t>(values_.size());
  if (scheme_.book == CodeBook::kLinear) {
    sum_levels(values_.data(), importance_.data(), size, candidates, totals);
  } else {
    sum_book_levels(values_.data(), importance_.data(), size, levels_of(scheme_.book).data(), candidates, totals);
  }
  Lanes gains;
  gains_of(totals, static_cast<float>(value_sum_), static_cast<float>(weight_sum_), scheme_.has_minima(),
           !scheme_.is_super_block(), &gains);
  int64_t lane = 0;
  for (int64_t i = 1; i < kLanes; ++i)
    if (gains[i] > gains[lane]) lane = i;
  if (static_cast<double>(gains[lane]) > best.gain) take_lane(totals, lane, candidates.zero, best);
}

void GridFitter::take_lane(const GridTotals& totals, int64_t lane, float zero, Fit& best) const {
  const double product = totals.product[lane], square = totals.square[lane], level = totals.level[lane];
  Fit fit{.zero = zero, .square = square, .level = level, .weight = weight_sum_};
  const double determinant = square * weight_sum_ - level * level;
  if (scheme_.has_minima() && determinant > 1e-7 * square * weight_sum_) {
    fit.scale = (product * weight_sum_ - level * value_sum_) / determinant;
    fit.minimum = (product * level - square * value_sum_) / determinant;
  }
  if (!scheme_.has_minima() || fit.scale <= 0 || (scheme_.is_super_block() && fit.minimum < 0)) {
    fit.scale = product / square;
    fit.minimum = 0;
  }
  fit.gain = fit.scale * product - fit.minimum * value_sum_;
  best = fit;
}

// `unit`: the inverse of the scale that just holds the largest weight; `least`: the weight that has code 0 when there
// are minima.
void GridFitter::try_widths(double unit, double least, float zero, Fit& best) const {
  const Range range = rule_ == GridRule::kLargestWeight ? Range{1, 1} : widths_of(scheme_);
  const double low = scheme_.has_minima() ? 0.0 : -zero;
  GridCandidates widths;
  widths.zero = zero;
  const double step = (range.to - range.from) / (kLanes - 1);
  fill(widths.inverse, range.from * unit, step * unit);
  fill(widths.shift, -range.from * unit * least, -step * unit * least);
  fill(widths.least, low, 0);
  fill(widths.most, low + scheme_.max_code(), 0);
  try_candidates(widths, best);
}

// Sixteen neighbours of the best grid: scales, or four scales with four minima each.
void GridFitter::try_around(Fit& best) const {
  if (best.scale == 0) return;
  const double low = scheme_.has_minima() ? 0.0 : -best.zero;
  GridCandidates around{.inverse = {}, .shift = {}, .least = {}, .most = {}, .zero = best.zero};
  fill(around.inverse, 0.95 / best.scale, 0.1 / (kLanes - 1) / best.scale);
  fill(around.least, low, 0);
  fill(around.most, low + scheme_.max_code(), 0);
  constexpr double kScales[] = {0.94, 0.98, 1.02, 1.06}, kShifts[] = {-0.3, -0.1, 0.1, 0.3};
  for (int64_t i = 0; i < kLanes && scheme_.has_minima(); ++i) {
    around.inverse[i] = static_cast<float>(kScales[i / 4] / best.scale);
    around.shift[i] = static_cast<float>(best.minimum / best.scale * kScales[i / 4] + kShifts[i % 4]);
  }
  try_candidates(around, best);
}

GridFitter::Fit GridFitter::fit_group(std::span<const float> values, std::span<const float> importance) {
  load(values, importance);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  double least = std::min(*low, 0.0f);
  const double most = std::max(*high, 0.0f), largest = std::max(-least, most);
  const float middle = scheme_.symmetric ? scheme_.middle() : 0;
  Fit best{.zero = middle};
  if (largest < kTooSmall) return best;
  if (largest > static_cast<double>(kTooLarge) * scheme_.max_code()) {
    best.scale = std::numeric_limits<double>::infinity();
    return best;
  }
  if (scheme_.has_minima()) {
    if (!scheme_.is_super_block()) least = *low;
    if (most - least < kTooSmall) return {.scale = 0, .minimum = -least, .zero = 0, .gain = 0};
    try_widths(scheme_.max_code() / (most - least), least, 0, best);
  } else if (scheme_.has_zeros()) {
    const double unit = scheme_.max_code() / (most - least);
    const auto zero = static_cast<float>(std::nearbyint(-least * unit));
    try_widths(unit, 0, zero, best);
    for (const float other : {zero - 1, zero + 1})
      if (rule_ == GridRule::kSmallestError && other >= 0 && other <= scheme_.max_code() && least < 0 && most > 0)
        try_widths(unit, 0, other, best);
  } else {
    const std::span<const float> levels = levels_of(scheme_.book);
    const double reach = levels.empty() ? middle - (scheme_.bits == 8) : -static_cast<double>(levels.front());
    try_widths(reach / largest, 0, middle, best);
    if (scheme_.is_block() && scheme_.block != BlockType::kQ8_0) try_widths(-reach / largest, 0, middle, best);
  }
  if (rule_ == GridRule::kSmallestError) try_around(best);
  return best;
}

Grid GridFitter::fit(std::span<const float> values, std::span<const float> importance) {
  const Fit fit = fit_group(values, importance);
  return {round_to_f16(static_cast<float>(fit.scale)), static_cast<uint8_t>(fit.zero),
          round_to_f16(static_cast<float>(fit.minimum))};
}

// Candidates put the largest scale of the groups on the largest integers.
void GridFitter::choose_super_scale(std::span<const Fit> fits, UnitGrids& grids) const {
  const BlockInfo& info = block_info(scheme_.block);
  std::array<float, 16> scales = {}, curvatures = {};
  float extreme = 0;
  for (size_t g = 0; g < fits.size(); ++g) {
    const Fit& fit = fits[g];
    scales[g] = static_cast<float>(fit.scale);
    curvatures[g] = static_cast<float>(
        scheme_.has_minima() && fit.weight > 0 ? fit.square - fit.level * fit.level / fit.weight : fit.square);
    if (std::abs(scales[g]) > std::abs(extreme)) extreme = scales[g];
  }
  const auto least = static_cast<float>(info.least_scale), most = static_cast<float>(info.most_scale);
  Multiples best = best_multiple(scales, curvatures, extreme, most, least, most);
  if (least < 0) {
    const Multiples turned = best_multiple(scales, curvatures, extreme, least, least, most);
    if (turned.loss < best.loss) best = turned;
  }
  grids.scale = best.unit;
  for (size_t g = 0; g < fits.size(); ++g)
    grids.scale_codes[g] = static_cast<int8_t>(nearest_multiple(scales[g], best.unit, least, most));
}

// The minimum that suits a group's stored scale moves along with that scale.
void GridFitter::choose_super_minimum(std::span<const Fit> fits, UnitGrids& grids) const {
  const auto most = static_cast<float>(block_info(scheme_.block).most_minimum);
  std::array<float, 16> wanted = {}, weights = {};
  for (size_t g = 0; g < fits.size(); ++g) {
    const Fit& fit = fits[g];
    const double moved = static_cast<double>(grids.scale) * grids.scale_codes[g] - fit.scale;
    wanted[g] =
        static_cast<float>(std::max(0.0, fit.minimum + (fit.weight > 0 ? fit.level / fit.weight * moved : 0.0)));
    weights[g] = static_cast<float>(fit.weight);
  }
  grids.minimum = best_multiple(wanted, weights, *std::ranges::max_element(wanted), most, 0, most).unit;
  for (size_t g = 0; g < fits.size(); ++g)
    grids.minimum_codes[g] = static_cast<uint8_t>(nearest_multiple(wanted[g], grids.minimum, 0, most));
}

void GridFitter::expand(UnitGrids& grids) const {
  for (size_t g = 0; g < static_cast<size_t>(groups_); ++g)
    grids.groups[g] = {grids.scale * static_cast<float>(grids.scale_codes[g]),
                       scheme_.symmetric ? scheme_.middle() : uint8_t{0},
                       grids.minimum * static_cast<float>(grids.minimum_codes[g])};
}

// Least squares for the two numbers of the super-block, with the codes and the groups' integers as they are.
void GridFitter::refit(std::span<const float> values, std::span<const float> importance, UnitGrids& grids) {
  const auto size = static_cast<size_t>(scheme_.group);
  const std::span<const float> levels = levels_of(scheme_.book);
  codes_.resize(size);
  double ss = 0, sm = 0, mm = 0, xs = 0, xm = 0;
  for (size_t g = 0; g < static_cast<size_t>(groups_); ++g) {
    const std::span group = values.subspan(g * size, size);
    encode(scheme_, grids.groups[g], group, codes_);
    for (size_t i = 0; i < size; ++i) {
      const double weight = importance.empty() ? 1.0 : importance[g * size + i];
      const double level = levels.empty() ? codes_[i] - grids.groups[g].zero : levels[codes_[i]];
      const double s = level * grids.scale_codes[g], m = -static_cast<double>(grids.minimum_codes[g]);
      ss += weight * s * s, sm += weight * s * m, mm += weight * m * m;
      xs += weight * s * group[i], xm += weight * m * group[i];
    }
  }
  const double determinant = ss * mm - sm * sm;
  if (mm > 0 && determinant > 1e-7 * ss * mm) {
    grids.scale = round_to_f16(static_cast<float>((xs * mm - xm * sm) / determinant));
    grids.minimum = round_to_f16(static_cast<float>((xm * ss - xs * sm) / determinant));
  } else if (mm == 0 && ss > 0) {
    grids.scale = round_to_f16(static_cast<float>(xs / ss));
  }
}

void GridFitter::fit_unit(std::span<const float> values, std::span<const float> importance, UnitGrids& grids) {
  if (!scheme_.is_super_block()) {
    grids.groups[0] = fit(values, importance);
    return;
  }
  const auto size = static_cast<size_t>(scheme_.group);
  fits_.clear();
  for (size_t g = 0; g < static_cast<size_t>(groups_); ++g)
    fits_.push_back(fit_group(values.subspan(g * size, size),
                              importance.empty() ? importance : importance.subspan(g * size, size)));
  grids = {};
  if (std::ranges::any_of(fits_, [](const Fit& fit) { return !std::isfinite(fit.scale); })) {
    grids.groups[0].scale = std::numeric_limits<float>::infinity();
    return;
  }
  choose_super_scale(fits_, grids);
  if (scheme_.has_minima()) choose_super_minimum(fits_, grids);
  expand(grids);
  if (rule_ == GridRule::kLargestWeight) return;
  refit(values, importance, grids);
  expand(grids);
}

void encode(const Scheme& scheme, const Grid& grid, std::span<const float> values, std::span<uint8_t> codes) {
  const float inverse = grid.scale == 0 ? 0.0f : 1.0f / grid.scale;
  if (const auto levels = levels_of(scheme.book); !levels.empty()) {
    for (size_t i = 0; i < values.size(); ++i) codes[i] = nearest_level(levels, values[i] * inverse);
    return;
  }
  const float low = -static_cast<float>(grid.zero), high = static_cast<float>(scheme.max_code() - grid.zero);
  for (size_t i = 0; i < values.size(); ++i) {
    const float level = std::clamp((values[i] + grid.minimum) * inverse, low, high);
    codes[i] = static_cast<uint8_t>(static_cast<int>((level + kRound) - kRound) + grid.zero);
  }
}

void store_grids(const UnitGrids& grids, int64_t row, int64_t unit, QuantizedMatrix& m) {
  const int64_t size = m.scheme.unit_size(m.cols), groups = size / m.scheme.group_size(m.cols);
  const auto first = static_cast<size_t>(row * m.groups() + unit * groups);
  for (size_t g = 0; g < static_cast<size_t>(groups); ++g) {
    m.scales[first + g] = grids.groups[g].scale;
    if (!m.zeros.empty()) m.zeros[first + g] = grids.groups[g].zero;
    if (!m.minima.empty()) m.minima[first + g] = grids.groups[g].minimum;
    if (!m.super.scale_codes.empty()) m.super.scale_codes[first + g] = grids.scale_codes[g];
    if (!m.super.minimum_codes.empty()) m.super.minimum_codes[first + g] = grids.minimum_codes[g];
  }
  const auto block = static_cast<size_t>(row * (m.cols / size) + unit);
  if (!m.super.scales.empty()) m.super.scales[block] = grids.scale;
  if (!m.super.minima.empty()) m.super.minima[block] = grids.minimum;
}

}  // namespace retort
