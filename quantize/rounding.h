// Rounding to nearest: a matrix at once, or a run of rows at a time on its way to the file.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/pack/packed_runs.h"
#include "quantize/quantizer.h"

namespace retort {

// Why a tensor is kept as it is.
inline constexpr const char* kNotFinite = "the weights hold NaN or infinity";

// Whether matrices of the scheme are the blocks of ggml's reference quantizer, bit for bit: q8_0 always (a search would
// lower an error that its 8-bit activations hide, and take three times as long), q4_0 with GridRule::kLargestWeight.
// Nothing is searched then, and importance has no say.
bool rounds_as_ggml(const Scheme& scheme, GridRule rule);
// Round to nearest, row by row (grid.h), or as ggml does. `importance` (empty, or one number per column, llama.cpp's
// imatrix) weights the errors of a column; large weights then count more than small ones. task.outliers stay in f16.
SolvedMatrix round_to_nearest(const MatrixTask& task, std::span<const float> importance, GridRule rule,
                              Context& context);
// How a matrix is rounded, and what its report says of it.
struct Rounding {
  std::vector<float> importance = {};
  GridRule grid = GridRule::kSmallestError;
  std::string method = "rtn", fallback = {};
};
// Of "imatrix" for a matrix of the scheme; without statistics it is rounded as by rtn.
Rounding imatrix_rounding(const Scheme& scheme, const InputStatistics* statistics, GridRule grid);

SolvedMatrix round_to_nearest(const MatrixTask& task, const Rounding& rounding, Context& context);

// round_to_nearest() of a matrix that is never held whole: a run of rows at a time.
class RunRounder {
 public:
  // The task has no outliers. Reads the whole matrix where the scheme has one grid for it.
  RunRounder(MatrixTask task, Rounding rounding);
  // A run is nothing when it cannot be rounded: then the whole matrix cannot be. They refer to this object.
  MatrixRuns runs();
  // When all runs were made: all of it but the matrix.
  SolvedMatrix report() const;
  // When one was not: why.
  std::string refusal(Context& context) const;

 private:
  std::optional<QuantizedMatrix> round(int64_t first, int64_t count);

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  MatrixTask task_;
  Rounding rounding_;
  std::optional<Grid> tensor_grid_;
  int64_t step_;
  std::vector<ErrorSums> sums_;  // by run
};
// What it holds at most, beside the grid of a whole matrix.
uint64_t run_rounder_bytes(int64_t cols, uint64_t threads);

}  // namespace retort
