// HOW codes are chosen: one row per method. The bytes are none of its business (core/pack), nor is the order in which
// a model is walked (quantize.cc, calibration/).
// To add a method: one file with its solve function, one row in quantizers.cc, a test against a slow reference.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/context.h"
#include "core/base/json.h"
#include "core/pack/packed_runs.h"
#include "core/pack/quantized_matrix.h"
#include "quantize/matrix_task.h"
#include "quantize/quantize.h"

namespace retort {

struct SolvedMatrix {
  std::optional<QuantizedMatrix> matrix;  // empty: cannot be quantized at all; `fallback` says why
  std::string method;
  std::string fallback;  // empty: as asked
  ScaleType scale_type = ScaleType::kF16;
  // The matrix is of W[r][c] * column_factors[c] / row_divisors[r] (awq/); empty: all 1.
  std::vector<float> column_factors = {}, row_divisors = {};
  Json details = Json::object();
  double seconds = 0;
  std::optional<double> relative_error = {};  // of the weights, where the solver has it anyway
};

// What calibration learnt of the inputs that a group of matrices shares.
struct InputStatistics {
  int64_t features = 0;
  // 2 / sequences * sum of x x^T over all tokens, [features, features], both triangles filled.
  std::vector<float> second_moment;
  std::vector<float> mean_absolute = {};  // by feature; for methods that scale inputs
  std::vector<float> mean_square = {};    // by feature; for methods that weigh columns
  // By matrix of the group, [rows, features]: 2 / sequences * sum of (y - W x) x^T, where y is what the matrix should
  // give for its input x. Empty: y = W x.
  std::vector<std::vector<float>> missing = {};

  std::vector<float> diagonal() const {  // of the second moment
    std::vector<float> entries;
    for (size_t i = 0; i < second_moment.size(); i += static_cast<size_t>(features) + 1)
      entries.push_back(second_moment[i]);
    return entries;
  }
};

struct SolverOptions {
  double damp = 0.01;
  bool activation_order = false;
  bool second_pass = false;
  bool in_pairs = false;  // products with the factor of H in bfloat16, where the processor multiplies it
  GridRule grid = GridRule::kSmallestError;
};

struct Quantizer {
  std::string_view name;
  int version;             // raised when the same inputs give other codes
  bool needs_calibration;  // walked layer by layer with InputStatistics; otherwise tensor by tensor
  bool (*supports)(const Scheme&);
  // Solves matrices that share their input: q, k and v; gate and up. `statistics` is null without calibration.
  std::vector<SolvedMatrix> (*solve)(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                     const SolverOptions& options, Context& context);
  // Solved tensor by tensor with the mean squares of the inputs (imatrix_file.h).
  bool weighs_columns = false;
  // Matrices are solved with scaled columns, the factors folded into the operation before (awq/).
  bool scales_inputs = false;
};

std::span<const Quantizer> quantizers();
const Quantizer& find_quantizer(std::string_view name);  // a usage Error names the nearest valid one

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
  // Nothing when they cannot be rounded: then the whole matrix cannot be. Thread-safe for different runs.
  MatrixRuns runs();
  // When all runs were made: all of it but the matrix.
  SolvedMatrix report() const;
  // When one was not: why.
  std::string refusal(Context& context) const;

 private:
  std::optional<QuantizedMatrix> round(int64_t first, int64_t count);

  const MatrixTask task_;
  const Rounding rounding_;
  const std::optional<Grid> tensor_grid_;
  const int64_t step_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::vector<ErrorSums> sums_;  // by run
};
// What it holds at most, beside the grid of a whole matrix.
uint64_t run_rounder_bytes(int64_t cols, uint64_t threads);

std::vector<SolvedMatrix> solve_rtn(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                    const SolverOptions& options, Context& context);
// Second-order error feedback, arXiv:2210.17323. See gptq/.
std::vector<SolvedMatrix> solve_gptq(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                     const SolverOptions& options, Context& context);

// Round to nearest, the error of a column weighted by the mean square of its input; of the embedding and the head,
// which have none, by rtn.
std::vector<SolvedMatrix> solve_imatrix(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                        const SolverOptions& options, Context& context);
// Round to nearest with scales that leave the smallest error of the outputs, for columns that are scaled: see awq/.
std::vector<SolvedMatrix> solve_awq(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                    const SolverOptions& options, Context& context);

}  // namespace retort
