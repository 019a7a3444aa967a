// Round to nearest.
#include "quantize/rounding.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <memory>

#include "core/base/in_order.h"
#include "core/base/lanes.h"
#include "quantize/grid.h"
#include "quantize/outliers.h"
#include "quantize/quantizer.h"

namespace retort {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffff;

RETORT_EACH_ISA float largest_magnitude(std::span<const float> values) {
  uint32_t largest = 0;  // floats without a sign are ordered as their bits are
  for (const float value : values) largest = std::max(largest, std::bit_cast<uint32_t>(value) & kMagnitude);
  return std::bit_cast<float>(largest);
}

// The first of those with the largest magnitude.
RETORT_EACH_ISA float largest_value(std::span<const float> values) {
  const float size = largest_magnitude(values);
  uint32_t positive = 0, negative = 0;
  for (const float value : values) positive |= value == size, negative |= value == -size;
  if (negative == 0) return size;
  if (positive == 0) return -size;
  return *std::ranges::find_if(values, [size](float value) { return std::abs(value) == size; });
}

// ggml's quantize_row_q4_0_ref: the value of largest magnitude becomes code 0. Codes come from the scale before it is
// rounded to f16.
RETORT_EACH_ISA float round_q4_0(std::span<const float> values, std::span<uint8_t> codes, std::span<float> decoded) {
  const float largest = largest_value(values);
  const float step = largest / -8.0f, inverse = std::isnormal(step) ? 1.0f / step : 0.0f, scale = round_to_f16(step);
  for (size_t i = 0; i < values.size(); ++i) {
    const int code = std::min(15, static_cast<int>(values[i] * inverse + 8.5f));
    codes[i] = static_cast<uint8_t>(code);
    decoded[i] = scale * static_cast<float>(code - 8);
  }
  return scale;
}

// ggml's quantize_row_q8_0_ref. With the largest float below one half, halves are rounded away from zero and all below
// them towards it.
RETORT_EACH_ISA float round_q8_0(std::span<const float> values, std::span<uint8_t> codes, std::span<float> decoded) {
  const float step = largest_magnitude(values) / 127.0f, inverse = std::isnormal(step) ? 1.0f / step : 0.0f,
              scale = round_to_f16(step);
  for (size_t i = 0; i < values.size(); ++i) {
    const float scaled = values[i] * inverse;
    const int level = static_cast<int>(scaled + std::copysign(0x1.fffffep-2f, scaled));
    codes[i] = static_cast<uint8_t>(level + 128);
    decoded[i] = scale * static_cast<float>(level);
  }
  return scale;
}

class PieceRounder {
 public:
  // `tensor_grid`: the one grid of the whole matrix, where the scheme has one.
  PieceRounder(QuantizedMatrix& matrix, const std::optional<Grid>& tensor_grid, GridRule rule, ScaleType scale_type,
               std::span<const float> importance)
      : matrix_(matrix),
        tensor_grid_(tensor_grid),
        importance_(importance),
        fitter_(matrix.scheme, rule, scale_type),
        unit_(static_cast<size_t>(matrix.scheme.unit_size(matrix.cols))),
        group_(static_cast<size_t>(matrix.scheme.group_size(matrix.cols))) {
    if (rounds_as_ggml(matrix.scheme, rule))
      round_block_ = matrix.scheme.block == BlockType::kQ8_0 ? round_q8_0 : round_q4_0;
  }

  // `values`: of rows of the matrix from `first` on.
  ErrorSums round(int64_t first, std::span<const float> values) {
    weigh_errors(importance_, values, weights_);
    const std::span<const float> importance = weights_;
    ErrorSums sums;
    const size_t units = values.size() / unit_, before = static_cast<size_t>(first * matrix_.cols) / unit_;
    for (size_t unit = 0; unit < units; unit += kUnits) {
      const size_t start = unit * unit_, size = std::min(kUnits, units - unit) * unit_;
      const std::span codes(matrix_.codes.data() + before * unit_ + start, size);
      round_units(values.subspan(start, size), importance.empty() ? importance : importance.subspan(start, size),
                  codes);
      store_grids(std::span(grids_).first(size / unit_), static_cast<int64_t>(before + unit), matrix_);
      sums += sum_errors(values.subspan(start, size), std::span(decoded_).first(size));
    }
    return sums;
  }

 private:
  static constexpr size_t kUnits = 16;  // at a time: with all that is made of them in the first cache

  void round_units(std::span<const float> values, std::span<const float> importance, std::span<uint8_t> codes) {
    const std::span grids = std::span(grids_).first(values.size() / unit_);
    if (tensor_grid_)
      for (UnitGrids& unit : grids) unit.groups[0] = *tensor_grid_;
    else if (round_block_ == nullptr)
      fitter_.fit_units(values, importance, grids);
    decoded_.resize(std::max(decoded_.size(), values.size()));
    if (round_block_ == nullptr) return encode_units(matrix_.scheme, grids, unit_ / group_, values, codes, decoded_);
    for (size_t block = 0; block < grids.size(); ++block) {
      const size_t start = block * group_;
      grids[block].groups[0] = {round_block_(values.subspan(start, group_), codes.subspan(start, group_),
                                             std::span(decoded_).subspan(start, group_)),
                                matrix_.scheme.middle()};
    }
  }

  QuantizedMatrix& matrix_;
  const std::optional<Grid>& tensor_grid_;
  const std::span<const float> importance_;  // of the columns
  GridFitter fitter_;
  const size_t unit_, group_;
  // Instead of a search.
  float (*round_block_)(std::span<const float>, std::span<uint8_t>, std::span<float> decoded) = nullptr;
  std::array<UnitGrids, kUnits> grids_;
  std::vector<float> weights_, decoded_;
};

constexpr const char* kLargeScale = "a scale is too large for f16";

bool finite_scales(const QuantizedMatrix& m) {
  return all_finite(m.scales) && all_finite(m.minima) && all_finite(m.super.scales) && all_finite(m.super.minima);
}

}  // namespace

bool rounds_as_ggml(const Scheme& scheme, GridRule rule) {
  return scheme.block == BlockType::kQ8_0 || (scheme.block == BlockType::kQ4_0 && rule == GridRule::kLargestWeight);
}

SolvedMatrix round_to_nearest(const MatrixTask& task, std::span<const float> importance, GridRule rule,
                              Context& context) {
  if (!task.outliers.empty()) {
    SolvedMatrix solved = round_to_nearest(without_outliers(task), importance, rule, context);
    keep_outliers(task, solved, context);
    return solved;
  }
  const auto start = std::chrono::steady_clock::now();
  SolvedMatrix solved{.matrix = make_quantized(task.scheme, task.rows, task.cols),
                      .method = "rtn",
                      .fallback = {},
                      .scale_type = task.scale_type};
  const std::optional<Grid> tensor_grid = fit_tensor_grid(task, rule, importance);
  std::vector<ErrorSums> sums(static_cast<size_t>(count_pieces(task)));
  std::atomic<bool> finite{true};
  for_each_piece(task, context, [&](const RowPiece& piece) {
    if (!all_finite(piece.values)) return finite.store(false);
    PieceRounder rounder(*solved.matrix, tensor_grid, rule, task.scale_type, importance);
    sums[static_cast<size_t>(piece.index)] = rounder.round(piece.first, piece.values);
  });
  if (!finite) solved.fallback = kNotFinite;
  if (finite && !finite_scales(*solved.matrix)) solved.fallback = kLargeScale;
  if (!solved.fallback.empty()) solved.matrix.reset();
  if (solved.matrix) solved.relative_error = total(sums).relative();
  solved.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return solved;
}

SolvedMatrix round_to_nearest(const MatrixTask& task, const Rounding& rounding, Context& context) {
  SolvedMatrix solved = round_to_nearest(task, rounding.importance, rounding.grid, context);
  solved.method = rounding.method;
  if (solved.matrix && !rounding.fallback.empty()) solved.fallback = rounding.fallback;
  return solved;
}

namespace {

constexpr int64_t kRunWeights = 1 << 17;  // with all that is made of them in a core's own cache
constexpr int64_t kRowsPacked = 32;       // rows that fill whole elements of every layout

int64_t rows_in_run(int64_t cols) { return std::max<int64_t>(1, kRunWeights / (cols * kRowsPacked)) * kRowsPacked; }

}  // namespace

RunRounder::RunRounder(MatrixTask task, Rounding rounding)
    : task_(std::move(task)),
      rounding_(std::move(rounding)),
      tensor_grid_(fit_tensor_grid(task_, rounding_.grid, rounding_.importance)),
      step_(rows_in_run(task_.cols)),
      sums_(static_cast<size_t>((task_.rows + step_ - 1) / step_)) {}

MatrixRuns RunRounder::runs() {
  return {task_.rows, task_.cols, step_, [this](int64_t first, int64_t count) { return round(first, count); }};
}

std::optional<QuantizedMatrix> RunRounder::round(int64_t first, int64_t count) {
  QuantizedMatrix rows = make_quantized(task_.scheme, count, task_.cols);
  PieceRounder rounder(rows, tensor_grid_, rounding_.grid, task_.scale_type, rounding_.importance);
  const int64_t most = std::min(count, rows_in_piece(task_.cols));
  const auto buffer = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(most * task_.cols));
  ErrorSums sums;
  for (int64_t row = 0; row < count; row += most) {
    const int64_t some = std::min(most, count - row);
    const std::span values(buffer.get(), static_cast<size_t>(some * task_.cols));
    task_.read(first + row, some, values);
    if (!all_finite(values)) return std::nullopt;
    sums += rounder.round(row, values);
  }
  if (!finite_scales(rows)) return std::nullopt;
  sums_[static_cast<size_t>(first / step_)] = sums;
  return rows;
}

SolvedMatrix RunRounder::report() const {
  return {.matrix = {},
          .method = rounding_.method,
          .fallback = rounding_.fallback,
          .scale_type = task_.scale_type,
          .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(),
          .relative_error = total(sums_).relative()};
}

std::string RunRounder::refusal(Context& context) const {
  std::atomic<bool> finite{true};
  for_each_piece(task_, context, [&](const RowPiece& piece) {
    if (!all_finite(piece.values)) finite = false;
  });
  return finite ? kLargeScale : kNotFinite;
}

uint64_t run_rounder_bytes(int64_t cols, uint64_t threads) {
  // Codes, grids and blocks, also of the runs that wait to be stored; values, weights, what is decoded and
  // what is searched.
  constexpr int64_t kByWeight = 3 + 2 * static_cast<int64_t>(kReadyRuns), kByPieceWeight = 28;
  return threads * static_cast<uint64_t>((kByWeight * rows_in_run(cols) + kByPieceWeight * rows_in_piece(cols)) * cols);
}

}  // namespace retort
