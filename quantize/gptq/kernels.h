// The inner loops of the solver, over a column of kSolverRows rows.
#pragma once

#include <cstdint>

#include "quantize/lanes.h"

namespace retort {

constexpr int64_t kSolverRows = 64;

// One entry per row of a shard: the grid that a row uses for one group of columns.
struct GridRows {
  float scale[kSolverRows] = {}, inverse[kSolverRows] = {}, zero[kSolverRows] = {}, minimum[kSolverRows] = {};
};

// What a column is rounded to: the levels of a code book, or the integers from -zero to max_code - zero.
struct Levels {
  float max_code = 0;
  const float* book = nullptr;  // 16 entries; null: integers
};

// Rounds `working` to the grid: codes, and error = original - value. Returns sum((working - value)^2).
float round_column(const float* working, const float* original, const GridRows& grid, const Levels& levels,
                   float* error, uint8_t* codes);
// columns[k][row] += feedback[k] * error[row] for k < count.
void feed_back(const float* feedback, const float* error, int64_t count, float* columns);

}  // namespace retort
