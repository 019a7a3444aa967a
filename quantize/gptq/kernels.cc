#include "quantize/gptq/kernels.h"

#include <algorithm>
#include <cstring>

namespace retort {
namespace {

const Lanes& lanes(const float* values) { return *reinterpret_cast<const Lanes*>(values); }
Lanes& lanes(float* values) { return *reinterpret_cast<Lanes*>(values); }

constexpr int64_t kBookLevels = 16;

// The nearest levels, and their codes.
__attribute__((always_inline)) inline void round_lanes(const Lanes& scaled, const Lanes& zero, const Levels& levels,
                                                       Lanes& level, Lanes& code) {
  if (levels.book) {
    code = Lanes{};
    level = code + levels.book[0];
    for (int64_t k = 1; k < kBookLevels; ++k) {
      const Lanes next = Lanes{} + levels.book[k], next_code = Lanes{} + static_cast<float>(k);
      const auto above = scaled > 0.5f * (levels.book[k - 1] + levels.book[k]);
      level = above ? next : level;
      code = above ? next_code : code;
    }
  } else {
    const Lanes least = -zero, most = levels.max_code - zero;
    level = scaled < least ? least : scaled;
    level = level > most ? most : level;
    level = (level + kRound) - kRound;
    code = level + zero;
  }
}

__attribute__((always_inline)) inline void load(const float* values, int64_t count, Lanes& out) {
  if (count == kLanes) {
    out = lanes(values);
    return;
  }
  out = Lanes{};
  std::memcpy(&out, values, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace

RETORT_EACH_ISA float round_column(float* working, const float* original, const GridRows& grid, const Levels& levels,
                                   float* error, uint8_t* codes) {
  Lanes squares = {};
  for (int64_t i = 0; i < kSolverRows; i += kLanes) {
    const Lanes minimum = lanes(grid.minimum + i);
    Lanes level, code;
    round_lanes((lanes(working + i) + minimum) * lanes(grid.inverse + i), lanes(grid.zero + i), levels, level, code);
    const Lanes value = level * lanes(grid.scale + i) - minimum, miss = lanes(working + i) - value;
    lanes(error + i) = lanes(original + i) - value;
    lanes(working + i) = miss;
    squares += miss * miss;
    for (int64_t lane = 0; lane < kLanes; ++lane) codes[i + lane] = static_cast<uint8_t>(static_cast<int>(code[lane]));
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += squares[lane];
  return sum;
}

RETORT_EACH_ISA void feed_back(const float* feedback, const float* error, int64_t count, float* columns,
                               int64_t stride) {
  for (int64_t k = 0; k < count; ++k, columns += stride)
    for (int64_t i = 0; i < kSolverRows; i += kLanes) lanes(columns + i) += feedback[k] * lanes(error + i);
}

RETORT_EACH_ISA BestCode first_change(const RowErrors& row, const Grid& grid, const Levels& levels, int64_t begin,
                                      int64_t end) {
  const float inverse = grid.scale == 0 ? 0.0f : 1.0f / grid.scale;
  const Lanes zero = Lanes{} + static_cast<float>(grid.zero);
  for (int64_t c = begin; c < end; c += kLanes) {
    const int64_t count = std::min(kLanes, end - c);
    Lanes original, reciprocal, error, gradient, level, code;
    load(row.original + c, count, original);
    load(row.inverse_diagonal + c, count, reciprocal);
    load(row.error + c, count, error);
    load(row.gradient + c, count, gradient);
    round_lanes((original - error + gradient * reciprocal + grid.minimum) * inverse, zero, levels, level, code);
    const Lanes best = original - (level * grid.scale - grid.minimum);
    if (std::memcmp(&best, &error, sizeof(best)) == 0) continue;
    for (int64_t lane = 0; lane < count; ++lane)
      if (best[lane] != error[lane]) return {c + lane, best[lane], static_cast<uint8_t>(code[lane])};
  }
  return {end, 0, 0};
}

RETORT_EACH_ISA void add_multiple(const float* values, float factor, int64_t count, float* sums) {
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) lanes(sums + c) += factor * lanes(values + c);
  for (; c < count; ++c) sums[c] += factor * values[c];
}

}  // namespace retort
