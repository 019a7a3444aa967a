// One matrix to quantize, read in pieces: a solver decides how much of it is in memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/context.h"
#include "core/pack/quantized_matrix.h"
#include "quantize/grid.h"

namespace retort {

struct MatrixTask {
  std::string name;
  int64_t rows = 0, cols = 0;
  Scheme scheme;  // fits the shape
  // Rows [first, first + count) in float32, out[count * cols]. Thread-safe.
  std::function<void(int64_t first, int64_t count, std::span<float> out)> read;
  ScaleType scale_type = ScaleType::kF16;
  std::vector<int32_t> outliers = {};  // columns that stay in 16 bits, rising (outliers.h)
};

// Whole rows; the pieces of a matrix depend on nothing but its shape.
struct RowPiece {
  int64_t index, first, count;
  std::span<const float> values;  // count * cols
};
int64_t rows_in_piece(int64_t cols);
int64_t count_pieces(const MatrixTask& task);
// Reads each piece and calls body, from all threads of the context.
void for_each_piece(const MatrixTask& task, Context& context, const std::function<void(const RowPiece&)>& body);

// The matrix with column c times column_factors[c] and row r divided by row_divisors[r]; empty: all 1. The task refers
// to them.
MatrixTask scaled(const MatrixTask& task, std::span<const float> column_factors,
                  std::span<const float> row_divisors = {});

// At most `rows` rows, spread evenly: row i of it is row i * task.rows / its rows.
MatrixTask spread_rows(const MatrixTask& task, int64_t rows);

// What the error of each of `values` (whole rows) counts, as llama.cpp weighs a column's importance: large weights
// count more (ggml-quants.c, quantize_row_q4_0_impl). Empty without importance.
void weigh_errors(std::span<const float> importance, std::span<const float> values, std::vector<float>& weights);

// The one grid of a matrix whose scheme has one grid for the tensor; empty for other schemes. `importance` as in
// round_to_nearest.
std::optional<Grid> fit_tensor_grid(const MatrixTask& task, GridRule rule = GridRule::kSmallestError,
                                    std::span<const float> importance = {});

// Sums of squares of weights and of their rounding errors.
struct ErrorSums {
  double error = 0, weight = 0;
  double relative() const { return weight > 0 ? std::sqrt(error / weight) : 0.0; }
  ErrorSums& operator+=(const ErrorSums& more) { return error += more.error, weight += more.weight, *this; }
};
ErrorSums total(std::span<const ErrorSums> sums);
// `decoded`: what is stored of each of `values`.
ErrorSums sum_errors(std::span<const float> values, std::span<const float> decoded);

// ||W - Wq||_F / ||W||_F; 0 for a matrix of zeros.
double relative_error(const MatrixTask& task, const QuantizedMatrix& matrix, Context& context);

}  // namespace retort
