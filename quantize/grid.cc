#include "quantize/grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/dtype.h"
#include "quantize/lanes.h"

namespace retort {
namespace {

constexpr float kTooSmall = 0x1p-26f, kTooLarge = 65504.0f;  // scales that f16 cannot hold

struct Sums {
  Lanes product = {}, square = {};
};

// sum(w x l) and sum(w l^2) for l = the integer in [low, high] nearest to x * inverse.
RETORT_EACH_ISA void sum_codes(const float* values, const float* importance, int64_t size, float inverse, float low,
                               float high, Sums* sums) {
  const Lanes least = Lanes{} + low, most = Lanes{} + high, inverses = Lanes{} + inverse;
  Lanes product = {}, square = {};
  for (int64_t i = 0; i < size; i += kLanes) {
    const Lanes x = *reinterpret_cast<const Lanes*>(values + i);
    Lanes level = x * inverses;
    level = level < least ? least : level;
    level = level > most ? most : level;
    level = (level + kRound) - kRound;
    const Lanes weighted = importance ? level * *reinterpret_cast<const Lanes*>(importance + i) : level;
    product += weighted * x;
    square += weighted * level;
  }
  sums->product = product;
  sums->square = square;
}

double total(const Lanes& lanes) {
  double sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

// Steps of the search in units of the range that just holds the largest weight: above 1 the largest is clipped.
// Eight bits have little to win.
std::span<const float> range_steps(int bits) {
  static constexpr float kWide[] = {1.0f, 1.004f, 1.008f};
  static constexpr float kFine[] = {0.80f, 0.84f, 0.88f, 0.92f, 0.96f, 1.00f, 1.04f, 1.08f, 1.12f,
                                    1.16f, 1.20f, 1.25f, 1.30f, 1.36f, 1.42f, 1.50f, 1.60f};
  return bits == 8 ? std::span<const float>(kWide) : std::span<const float>(kFine);
}

}  // namespace

float round_to_f16(float value) { return f16_to_f32(f32_to_f16(value)); }

GridFitter::GridFitter(const Scheme& scheme) : scheme_(scheme) {}

void GridFitter::load(std::span<const float> values, std::span<const float> importance) {
  const size_t padded = (values.size() + kLanes - 1) / kLanes * kLanes;
  values_.assign(padded, 0.0f);
  std::copy(values.begin(), values.end(), values_.begin());
  if (importance.empty()) return;
  importance_.assign(padded, 0.0f);
  std::copy(importance.begin(), importance.end(), importance_.begin());
}

GridFitter::Fit GridFitter::fit_scale(float inverse_scale, float zero, bool weighted) const {
  Sums sums;
  sum_codes(values_.data(), weighted ? importance_.data() : nullptr, static_cast<int64_t>(values_.size()),
            inverse_scale, -zero, static_cast<float>(scheme_.max_code()) - zero, &sums);
  const double product = total(sums.product), square = total(sums.square);
  if (!(square > 0)) return {};
  return {static_cast<float>(product / square), product * product / square};
}

// `unit`: the inverse of the scale that just holds the largest weight.
GridFitter::Fit GridFitter::best_scale(float unit, float zero, bool weighted) const {
  Fit best;
  for (const float step : range_steps(scheme_.bits)) {
    const Fit fit = fit_scale(unit * step, zero, weighted);
    if (fit.gain > best.gain) best = fit;
  }
  return best;
}

Grid GridFitter::fit(std::span<const float> values, std::span<const float> importance) {
  load(values, importance);
  const auto [low, high] = std::minmax_element(values_.begin(), values_.end());
  const float least = std::min(*low, 0.0f), most = std::max(*high, 0.0f), largest = std::max(-least, most);
  const uint8_t middle = scheme_.symmetric ? scheme_.middle() : 0;
  if (largest < kTooSmall) return {0, middle};
  if (largest > kTooLarge * scheme_.max_code()) return {std::numeric_limits<float>::infinity(), middle};
  const bool weighted = !importance.empty();
  if (!scheme_.symmetric) {
    const float unit = static_cast<float>(scheme_.max_code()) / (most - least);
    const float zero = std::nearbyint(-least * unit);
    return {round_to_f16(best_scale(unit, zero, weighted).scale), static_cast<uint8_t>(zero)};
  }
  const float unit = static_cast<float>(middle - (scheme_.bits == 8)) / largest;
  Fit best = best_scale(unit, middle, weighted);
  if (scheme_.block == BlockType::kQ4_0) {
    const Fit mirrored = best_scale(-unit, middle, weighted);
    if (mirrored.gain > best.gain) best = mirrored;
  }
  return {round_to_f16(best.scale), middle};
}

void encode(const Scheme& scheme, const Grid& grid, std::span<const float> values, std::span<uint8_t> codes) {
  const float inverse = grid.scale == 0 ? 0.0f : 1.0f / grid.scale;
  const float low = -static_cast<float>(grid.zero), high = static_cast<float>(scheme.max_code() - grid.zero);
  for (size_t i = 0; i < values.size(); ++i) {
    const float level = std::clamp(values[i] * inverse, low, high);
    codes[i] = static_cast<uint8_t>(static_cast<int>((level + kRound) - kRound) + grid.zero);
  }
}

}  // namespace retort
