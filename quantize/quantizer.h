// HOW codes are chosen: one row per method. The bytes are none of its business (core/pack), nor is the order in which
// a model is walked (quantize.cc, calibration/).
// To add a method: one file with its solve function, one row in quantizers.cc, a test against a slow reference.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/context.h"
#include "core/base/json.h"
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
  // Solves matrices that share their input: q, k and v; gate and up. Null without calibration: matrices are rounded
  // (rounding.h).
  std::vector<SolvedMatrix> (*solve)(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                     const SolverOptions& options, Context& context);
  // Solved tensor by tensor with the mean squares of the inputs (imatrix_file.h).
  bool weighs_columns = false;
  // Matrices are solved with scaled columns, the factors folded into the operation before (awq/).
  bool scales_inputs = false;
};

std::span<const Quantizer> quantizers();
const Quantizer& find_quantizer(std::string_view name);  // a usage Error names the nearest valid one

// Second-order error feedback, arXiv:2210.17323. See gptq/.
std::vector<SolvedMatrix> solve_gptq(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                     const SolverOptions& options, Context& context);

// Round to nearest with scales that leave the smallest error of the outputs, for columns that are scaled: see awq/.
std::vector<SolvedMatrix> solve_awq(std::span<const MatrixTask> group, const InputStatistics* statistics,
                                    const SolverOptions& options, Context& context);

}  // namespace retort
