// Round to nearest.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>

#include "quantize/grid.h"
#include "quantize/quantizer.h"

namespace retort {
namespace {

// ggml's quantize_row_q4_0_ref: the value of largest magnitude becomes code 0. Codes come from the scale before it is
// rounded to f16.
float round_q4_0(std::span<const float> values, std::span<uint8_t> codes) {
  float largest = 0;
  for (const float value : values)
    if (std::abs(value) > std::abs(largest)) largest = value;
  const float step = largest / -8.0f, inverse = std::isnormal(step) ? 1.0f / step : 0.0f;
  for (size_t i = 0; i < values.size(); ++i)
    codes[i] = static_cast<uint8_t>(std::min(15, static_cast<int>(values[i] * inverse + 8.5f)));
  return round_to_f16(step);
}

// ggml's quantize_row_q8_0_ref.
float round_q8_0(std::span<const float> values, std::span<uint8_t> codes) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  const float step = largest / 127.0f, inverse = std::isnormal(step) ? 1.0f / step : 0.0f;
  for (size_t i = 0; i < values.size(); ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int>(std::round(values[i] * inverse)) + 128);
  return round_to_f16(step);
}

class RowRounder {
 public:
  // `tensor_grid`: the one grid of the whole matrix, where the scheme has one.
  RowRounder(QuantizedMatrix& matrix, const std::optional<Grid>& tensor_grid)
      : matrix_(matrix), tensor_grid_(tensor_grid), fitter_(matrix.scheme) {}

  void round(int64_t row, std::span<const float> values) {
    const int64_t groups = matrix_.groups();
    const auto size = static_cast<size_t>(matrix_.scheme.group_size(matrix_.cols));
    for (int64_t g = 0; g < groups; ++g) {
      const size_t start = static_cast<size_t>(g) * size;
      const std::span codes(matrix_.codes.data() + row * matrix_.cols + start, size);
      const Grid grid = round_group(values.subspan(start, size), codes);
      const auto index = static_cast<size_t>(row * groups + g);
      matrix_.scales[index] = grid.scale;
      if (!matrix_.zeros.empty()) matrix_.zeros[index] = grid.zero;
    }
  }

 private:
  Grid round_group(std::span<const float> values, std::span<uint8_t> codes) {
    const Scheme& scheme = matrix_.scheme;
    if (scheme.block == BlockType::kQ4_0) return {round_q4_0(values, codes), scheme.middle()};
    if (scheme.block == BlockType::kQ8_0) return {round_q8_0(values, codes), scheme.middle()};
    const Grid grid = tensor_grid_ ? *tensor_grid_ : fitter_.fit(values);
    if (std::isfinite(grid.scale)) encode(scheme, grid, values, codes);
    return grid;
  }

  QuantizedMatrix& matrix_;
  const std::optional<Grid>& tensor_grid_;
  GridFitter fitter_;
};

// Rounds every row; the reason when that cannot be done.
std::string round_rows(const MatrixTask& task, const std::optional<Grid>& tensor_grid, QuantizedMatrix& matrix,
                       Context& context) {
  std::atomic<bool> finite{true};
  for_each_piece(task, context, [&](const RowPiece& piece) {
    if (!all_finite(piece.values)) return finite.store(false);
    RowRounder rounder(matrix, tensor_grid);
    for (int64_t r = 0; r < piece.count; ++r)
      rounder.round(piece.first + r, piece.values.subspan(static_cast<size_t>(r * task.cols), task.cols));
  });
  if (!finite) return "the weights hold NaN or infinity";
  return all_finite(matrix.scales) ? "" : "a scale is too large for f16";
}

SolvedMatrix solve_one(const MatrixTask& task, Context& context) {
  const auto start = std::chrono::steady_clock::now();
  SolvedMatrix solved{.matrix = make_quantized(task.scheme, task.rows, task.cols), .method = "rtn", .fallback = {}};
  solved.fallback = round_rows(task, fit_tensor_grid(task), *solved.matrix, context);
  if (!solved.fallback.empty()) solved.matrix.reset();
  solved.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return solved;
}

}  // namespace

std::vector<SolvedMatrix> solve_rtn(std::span<const MatrixTask> group, const InputStatistics* /*statistics*/,
                                    const SolverOptions& /*options*/, Context& context) {
  std::vector<SolvedMatrix> solved;
  for (const MatrixTask& task : group) solved.push_back(solve_one(task, context));
  return solved;
}

}  // namespace retort
