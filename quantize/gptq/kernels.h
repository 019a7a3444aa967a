// The inner loops of the solver: of the first pass over a column of kSolverRows rows, of the second over a row.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/lanes.h"
#include "quantize/grid.h"

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

// Rounds `working` to the grid: codes, and error = original - value. What the rounding missed is left in `working`,
// and the sum of its squares returned.
float round_column(float* working, const float* original, const GridRows& grid, const Levels& levels, float* error,
                   uint8_t* codes);
// columns[k * stride + row] += feedback[k] * error[row] for k < count.
void feed_back(const float* feedback, const float* error, int64_t count, float* columns, int64_t stride);

// A row of a matrix by column, as the second pass has it.
struct RowErrors {
  const float* original;
  const float* inverse_diagonal;           // 1 / H[c][c]
  float* error;                            // original - value
  float* gradient;                         // H error
  std::span<const int32_t> outliers = {};  // columns that stay in 16 bits, rising
  float* kept = nullptr;                   // their values
};

// The best code of a column while all others stay.
struct BestCode {
  int64_t column;
  float error;
  uint8_t code;
};

// Of the columns [begin, end), which share a grid, the first that has another code than its best; `end`: there is none.
BestCode first_change(const RowErrors& row, const Grid& grid, const Levels& levels, int64_t begin, int64_t end);
// sums[c] += factor * values[c] for c < count.
void add_multiple(const float* values, float factor, int64_t count, float* sums);

}  // namespace retort
