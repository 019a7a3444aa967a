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
  RowRounder(QuantizedMatrix& matrix, const std::optional<Grid>& tensor_grid, GridRule rule,
             std::span<const float> importance)
      : matrix_(matrix),
        tensor_grid_(tensor_grid),
        rule_(rule),
        importance_(importance),
        fitter_(matrix.scheme, rule) {}

  void round(int64_t row, std::span<const float> values) {
    const auto size = static_cast<size_t>(matrix_.scheme.unit_size(matrix_.cols));
    const std::span<const float> importance = importance_.empty() ? importance_ : weigh(values);
    for (size_t unit = 0; unit < values.size() / size; ++unit) {
      const size_t start = unit * size;
      const std::span codes(matrix_.codes.data() + static_cast<size_t>(row * matrix_.cols) + start, size);
      round_unit(values.subspan(start, size), importance.empty() ? importance : importance.subspan(start, size), codes);
      store_grids(grids_, row, static_cast<int64_t>(unit), matrix_);
    }
  }

 private:
  void round_unit(std::span<const float> values, std::span<const float> importance, std::span<uint8_t> codes) {
    const Scheme& scheme = matrix_.scheme;
    if (rule_ == GridRule::kLargestWeight && scheme.block == BlockType::kQ4_0)
      return void(grids_.groups[0] = {round_q4_0(values, codes), scheme.middle()});
    if (rule_ == GridRule::kLargestWeight && scheme.block == BlockType::kQ8_0)
      return void(grids_.groups[0] = {round_q8_0(values, codes), scheme.middle()});
    if (tensor_grid_)
      grids_.groups[0] = *tensor_grid_;
    else
      fitter_.fit_unit(values, importance, grids_);
    if (!std::isfinite(grids_.groups[0].scale)) return;
    const auto size = static_cast<size_t>(scheme.group_size(matrix_.cols));
    for (size_t g = 0; g < values.size() / size; ++g)
      encode(scheme, grids_.groups[g], values.subspan(g * size, size), codes.subspan(g * size, size));
  }

  // As llama.cpp weighs a column's importance: large weights count more (ggml-quants.c, quantize_row_q4_K_impl).
  std::span<const float> weigh(std::span<const float> values) {
    double squares = 0;
    for (const float value : values) squares += static_cast<double>(value) * value;
    const auto spread = static_cast<float>(squares / static_cast<double>(values.size()));
    weights_.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) weights_[i] = importance_[i] * std::sqrt(spread + values[i] * values[i]);
    return weights_;
  }

  QuantizedMatrix& matrix_;
  const std::optional<Grid>& tensor_grid_;
  const GridRule rule_;
  const std::span<const float> importance_;  // of the columns
  GridFitter fitter_;
  UnitGrids grids_;
  std::vector<float> weights_;
};

bool finite_scales(const QuantizedMatrix& m) {
  return all_finite(m.scales) && all_finite(m.minima) && all_finite(m.super.scales) && all_finite(m.super.minima);
}

}  // namespace

SolvedMatrix round_to_nearest(const MatrixTask& task, std::span<const float> importance, GridRule rule,
                              Context& context) {
  const auto start = std::chrono::steady_clock::now();
  SolvedMatrix solved{.matrix = make_quantized(task.scheme, task.rows, task.cols), .method = "rtn", .fallback = {}};
  const std::optional<Grid> tensor_grid = fit_tensor_grid(task);
  std::vector<ErrorSums> sums(static_cast<size_t>(count_pieces(task)));
  std::atomic<bool> finite{true};
  for_each_piece(task, context, [&](const RowPiece& piece) {
    if (!all_finite(piece.values)) return finite.store(false);
    RowRounder rounder(*solved.matrix, tensor_grid, rule, importance);
    for (int64_t r = 0; r < piece.count; ++r)
      rounder.round(piece.first + r, piece.values.subspan(static_cast<size_t>(r * task.cols), task.cols));
    sums[static_cast<size_t>(piece.index)] = sum_errors(*solved.matrix, piece.first, piece.values);
  });
  if (!finite) solved.fallback = "the weights hold NaN or infinity";
  if (finite && !finite_scales(*solved.matrix)) solved.fallback = "a scale is too large for f16";
  if (!solved.fallback.empty()) solved.matrix.reset();
  solved.relative_error = total(sums).relative();
  solved.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return solved;
}

std::vector<SolvedMatrix> solve_rtn(std::span<const MatrixTask> group, const InputStatistics* /*statistics*/,
                                    const SolverOptions& options, Context& context) {
  std::vector<SolvedMatrix> solved;
  for (const MatrixTask& task : group) solved.push_back(round_to_nearest(task, {}, options.grid, context));
  return solved;
}

}  // namespace retort
