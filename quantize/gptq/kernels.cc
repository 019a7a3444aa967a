#include "quantize/gptq/kernels.h"

namespace retort {
namespace {

const Lanes& lanes(const float* values) { return *reinterpret_cast<const Lanes*>(values); }
Lanes& lanes(float* values) { return *reinterpret_cast<Lanes*>(values); }

}  // namespace

RETORT_EACH_ISA float round_column(const float* working, const float* original, const GridRows& grid, float max_code,
                                   float* error, uint8_t* codes) {
  Lanes squares = {};
  for (int64_t i = 0; i < kSolverRows; i += kLanes) {
    const Lanes zero = lanes(grid.zero + i), least = -zero, most = max_code - zero;
    Lanes level = lanes(working + i) * lanes(grid.inverse + i);
    level = level < least ? least : level;
    level = level > most ? most : level;
    level = (level + kRound) - kRound;
    const Lanes value = level * lanes(grid.scale + i), miss = lanes(working + i) - value;
    lanes(error + i) = lanes(original + i) - value;
    squares += miss * miss;
    const Lanes code = level + zero;
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
