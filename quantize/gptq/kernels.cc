#include "quantize/gptq/kernels.h"

namespace retort {
namespace {

const Lanes& lanes(const float* values) { return *reinterpret_cast<const Lanes*>(values); }
Lanes& lanes(float* values) { return *reinterpret_cast<Lanes*>(values); }

constexpr int64_t kBookLevels = 16;

}  // namespace

RETORT_EACH_ISA float round_column(const float* working, const float* original, const GridRows& grid,
                                   const Levels& levels, float* error, uint8_t* codes) {
  Lanes squares = {};
  for (int64_t i = 0; i < kSolverRows; i += kLanes) {
    const Lanes minimum = lanes(grid.minimum + i), scaled = (lanes(working + i) + minimum) * lanes(grid.inverse + i);
    Lanes level, code = {};
    if (levels.book) {
      level = code + levels.book[0];
      for (int64_t k = 1; k < kBookLevels; ++k) {
        const Lanes next = Lanes{} + levels.book[k], next_code = Lanes{} + static_cast<float>(k);
        const auto above = scaled > 0.5f * (levels.book[k - 1] + levels.book[k]);
        level = above ? next : level;
        code = above ? next_code : code;
      }
    } else {
      const Lanes zero = lanes(grid.zero + i), least = -zero, most = levels.max_code - zero;
      level = scaled < least ? least : scaled;
      level = level > most ? most : level;
      level = (level + kRound) - kRound;
      code = level + zero;
    }
    const Lanes value = level * lanes(grid.scale + i) - minimum, miss = lanes(working + i) - value;
    lanes(error + i) = lanes(original + i) - value;
    squares += miss * miss;
    for (int64_t lane = 0; lane < kLanes; ++lane) codes[i + lane] = static_cast<uint8_t>(static_cast<int>(code[lane]));
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += squares[lane];
  return sum;
}

RETORT_EACH_ISA void feed_back(const float* feedback, const float* error, int64_t count, float* columns) {
  for (int64_t k = 0; k < count; ++k, columns += kSolverRows)
    for (int64_t i = 0; i < kSolverRows; i += kLanes) lanes(columns + i) += feedback[k] * lanes(error + i);
}

}  // namespace retort
