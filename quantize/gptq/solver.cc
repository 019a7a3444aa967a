#include "quantize/gptq/solver.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "model/shards.h"
#include "quantize/gptq/kernels.h"
#include "quantize/gptq/second_pass.h"
#include "quantize/outliers.h"

namespace retort {
namespace {

constexpr int64_t kBlock = 128;
// Of the wide matrices whose factor no cache holds: each row that is solved along with another saves a reading of it.
constexpr int64_t kWide = 2048, kWideShardRows = 256;
constexpr int64_t kPairedPlaces = 256;  // what is multiplied with them stays in the second cache

int64_t shard_rows(const MatrixTask& task) { return task.cols < kWide ? kSolverRows : kWideShardRows; }

// Up to shard_rows of one matrix. Tensors are [columns in the order of the solve, width_], where width_ is the number
// of rows in whole strips of kSolverRows: a column lies together, and the vector units work on rows side by side.
class RowShard {
 public:
  RowShard(const MatrixTask& task, const HessianFactor& factor, const std::optional<Grid>& tensor_grid,
           std::span<const float> missing, int64_t first, GptqResult& result)
      : task_(task),
        factor_(factor),
        tensor_grid_(tensor_grid),
        missing_(missing),
        first_(first),
        result_(result),
        fitter_(task.scheme, GridRule::kSmallestError, task.scale_type),
        rows_(std::min(shard_rows(task), task.rows - first)),
        strips_((rows_ + kSolverRows - 1) / kSolverRows),
        width_(strips_ * kSolverRows),
        group_(task.scheme.group_size(task.cols)),
        unit_(task.scheme.unit_size(task.cols)),
        levels_{static_cast<float>(task.scheme.max_code()), levels_of(task.scheme.book).data()},
        rounded_(task.cols - static_cast<int64_t>(task.outliers.size())),
        static_(!std::ranges::is_sorted(factor.order) || unit_ == task.cols || rounded_ < task.cols),
        grids_(static_cast<size_t>(task.scheme.groups(task.cols) * strips_)),
        codes_(static_cast<size_t>(kBlock * width_)) {}

  // False when the weights or a scale are not finite. `objective` grows by the shard's share.
  bool solve(double& objective) {
    if (!load()) return false;
    if (static_) fit_static_grids();
    for (int64_t begin = 0, end; begin < task_.cols; begin = end) {
      end = block_end(begin);
      objective += solve_block(begin, end);
      if (end == task_.cols) break;
      feed(begin, end);
    }
    if (finite_ && !factor_.second_moment.empty()) objective = second_pass();
    return finite_;
  }

 private:
  bool load() {
    at::Tensor rows = at::zeros({width_, task_.cols}, at::kFloat);
    const std::span values(rows.mutable_data_ptr<float>(), static_cast<size_t>(rows_ * task_.cols));
    task_.read(first_, rows_, values);
    if (!all_finite(values)) return false;
    original_ = in_order(rows);
    if (!missing_.empty()) original_ += correction();
    if (!missing_.empty() && !at::isfinite(original_).all().item<bool>()) return false;
    for (int64_t place = 0; place < task_.cols; ++place)
      if (factor_.dead[static_cast<size_t>(factor_.order[static_cast<size_t>(place)])]) original_[place].zero_();
    working_ = original_.clone();
    error_ = at::empty_like(original_);
    return true;
  }

  // [width_, columns of the matrix] -> [columns in the order of the solve, width_]
  at::Tensor in_order(const at::Tensor& rows) const {
    return rows.t().index_select(0, at::tensor(factor_.order)).contiguous();
  }

  // missing H^-1 by H = F diag(pivots) F^T.
  at::Tensor correction() const {
    at::Tensor rows = at::zeros({width_, task_.cols}, at::kFloat);
    std::ranges::copy(
        missing_.subspan(static_cast<size_t>(first_ * task_.cols), static_cast<size_t>(rows_ * task_.cols)),
        rows.mutable_data_ptr<float>());
    const at::Tensor pivots = at::from_blob(const_cast<float*>(factor_.pivots.data()), {task_.cols, 1}, at::kFloat);
    const at::Tensor half = at::linalg_solve_triangular(factor_.feedback, in_order(rows), /*upper=*/true,
                                                        /*left=*/true, /*unitriangular=*/true);
    return at::linalg_solve_triangular(factor_.feedback.t(), half / pivots, /*upper=*/false, /*left=*/true,
                                       /*unitriangular=*/true);
  }

  // Blocks do not straddle the start of a unit, so that its grids can see all the feedback that they should.
  int64_t block_end(int64_t begin) const {
    if (static_) return std::min(begin + kBlock, task_.cols);
    if (unit_ <= kBlock) return std::min(begin + kBlock / unit_ * unit_, task_.cols);
    return std::min(begin + kBlock, (begin / unit_ + 1) * unit_);
  }

  // What the places [begin, end) missed goes to those behind them.
  void feed(int64_t begin, int64_t end) {
    if (factor_.paired.feeds(begin, end)) {
      pairs_.pack(error_.const_data_ptr<float>() + begin * width_, end - begin, width_);
      return pairs_.feed(factor_.paired, begin, end, working_.mutable_data_ptr<float>());
    }
    working_.slice(0, end).addmm_(factor_.feedback.slice(0, begin, end).slice(1, end).t(), error_.slice(0, begin, end));
  }

  // The weights as GPTQ has them when it reaches place `begin`: each later column corrected on the supposition that
  // those between are free to move too, X = D F'^-1 for the plain sums of feedback D and the unit's part F' of F.
  at::Tensor compensated(int64_t begin, int64_t end) const {
    const at::Tensor original = original_.slice(0, begin, end);
    if (begin == 0) return original;
    const at::Tensor feedback = factor_.feedback.slice(0, begin, end).slice(1, begin, end);
    return original + at::linalg_solve_triangular(feedback.t(), working_.slice(0, begin, end) - original,
                                                  /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  }

  // `weights` [columns of the unit, width_].
  void fit_grids(int64_t unit, const at::Tensor& weights, std::span<const float> importance) {
    const at::Tensor rows = weights.t().contiguous();
    const std::span values(rows.const_data_ptr<float>(), static_cast<size_t>(rows_ * rows.size(1)));
    units_.resize(static_cast<size_t>(rows_));
    if (tensor_grid_)
      for (UnitGrids& grids : units_) grids.groups[0] = *tensor_grid_;
    else
      fitter_.fit_units(values, importance, units_);
    for (int64_t row = 0; row < rows_; ++row) {
      const UnitGrids& grids = units_[static_cast<size_t>(row)];
      take_grids(row, unit, grids);
      store_grids(grids, first_ + row, unit, result_.matrix);
    }
  }

  void take_grids(int64_t row, int64_t unit, const UnitGrids& grids) {
    for (int64_t i = 0; i < unit_ / group_; ++i) {
      const Grid& grid = grids.groups[static_cast<size_t>(i)];
      GridRows& rows = grids_at(unit * (unit_ / group_) + i, row / kSolverRows);
      const int64_t lane = row % kSolverRows;
      finite_ = finite_ && std::isfinite(grid.scale) && std::isfinite(grid.minimum);
      rows.scale[lane] = grid.scale;
      rows.inverse[lane] = grid.scale == 0 ? 0.0f : 1.0f / grid.scale;
      rows.zero[lane] = grid.zero;
      rows.minimum[lane] = grid.minimum;
    }
  }

  GridRows& grids_at(int64_t group, int64_t strip) { return grids_[static_cast<size_t>(group * strips_ + strip)]; }

  std::vector<int64_t> places() const {
    std::vector<int64_t> place(factor_.order.size());
    for (size_t i = 0; i < place.size(); ++i) place[static_cast<size_t>(factor_.order[i])] = static_cast<int64_t>(i);
    return place;
  }

  void fit_static_grids() {
    const std::vector<int64_t> place = places();
    std::vector<float> importance(static_cast<size_t>(unit_));
    for (int64_t first = 0; first < task_.cols; first += unit_) {
      const std::span columns(place.data() + first, static_cast<size_t>(unit_));
      std::ranges::transform(columns, importance.begin(),
                             [&](int64_t i) { return factor_.pivots[static_cast<size_t>(i)]; });
      const at::Tensor index = at::tensor(at::ArrayRef<int64_t>(columns.data(), columns.size()));
      at::Tensor weights = original_.index_select(0, index);
      for (int64_t i = 0; i < unit_; ++i)
        if (columns[static_cast<size_t>(i)] >= rounded_) weights[i].zero_();
      fit_grids(first / unit_, weights, importance);
    }
  }

  double solve_block(int64_t begin, int64_t end) {
    double objective = 0;
    float* working = working_.mutable_data_ptr<float>();
    const float* original = original_.const_data_ptr<float>();
    float* error = error_.mutable_data_ptr<float>();
    const float* feedback = factor_.feedback.const_data_ptr<float>();
    for (int64_t place = begin; place < end; ++place) {
      if (!static_ && place % unit_ == 0) start_unit(place);
      const int64_t group = factor_.order[static_cast<size_t>(place)] / group_;
      float miss = 0;
      for (int64_t strip = 0; strip < strips_; ++strip) {
        const int64_t at = place * width_ + strip * kSolverRows;
        uint8_t* codes = codes_.data() + (place - begin) * width_ + strip * kSolverRows;
        if (place < rounded_)
          miss += round_column(working + at, original + at, grids_at(group, strip), levels_, error + at, codes);
        else
          miss += keep_column(place, strip, error + at, codes);
        feed_back(feedback + place * task_.cols + place + 1, error + at, end - place - 1, working + at + width_,
                  width_);
      }
      objective += static_cast<double>(miss) * factor_.pivots[static_cast<size_t>(place)];
    }
    store_codes(begin, end);
    return objective;
  }

  // As round_column, of a strip of an outlier column.
  float keep_column(int64_t place, int64_t strip, float* error, uint8_t* codes) {
    const int64_t column = factor_.order[static_cast<size_t>(place)], first = strip * kSolverRows;
    const float* original = original_.const_data_ptr<float>() + place * width_ + first;
    float* working = working_.mutable_data_ptr<float>() + place * width_ + first;
    const GridRows& grid = grids_at(column / group_, strip);
    const auto index = std::ranges::lower_bound(task_.outliers, column) - task_.outliers.begin();
    float squares = 0;
    for (int64_t i = 0; i < kSolverRows; ++i) {
      const float value = round_to_f16(working[i]);
      finite_ = finite_ && std::isfinite(value);
      error[i] = original[i] - value;
      working[i] -= value;
      squares += working[i] * working[i];
      codes[i] = static_cast<uint8_t>(grid.zero[i]);
      if (first + i < rows_) kept(first + i)[index] = value;
    }
    return squares;
  }

  // The outliers of a row.
  float* kept(int64_t row) {
    return result_.matrix.outliers.data() + static_cast<size_t>(first_ + row) * task_.outliers.size();
  }

  void start_unit(int64_t begin) {
    const int64_t end = begin + unit_;
    fit_grids(begin / unit_, compensated(begin, end),
              std::span(factor_.pivots).subspan(static_cast<size_t>(begin), static_cast<size_t>(unit_)));
  }

  // Of all columns, by H = F diag(pivots) F^T and the misses F^T E that the first pass has left: half of the work of
  // H E. [width_, columns of the matrix]
  at::Tensor gradient() {
    const at::Tensor pivots = at::from_blob(const_cast<float*>(factor_.pivots.data()), {task_.cols, 1}, at::kFloat);
    working_.mul_(pivots);
    if (factor_.paired.defined()) return by_row(paired_product());
    const at::Tensor product = at::empty_like(working_);
    for (int64_t begin = 0; begin < task_.cols; begin += kWide) {
      const int64_t end = std::min(begin + kWide, task_.cols);
      at::Tensor part = product.slice(0, begin, end);
      at::mm_out(part, factor_.feedback.slice(0, begin, end).slice(1, begin), working_.slice(0, begin));
    }
    return by_row(product);
  }

  // F working_
  at::Tensor paired_product() {
    const at::Tensor product = at::zeros_like(working_);
    for (int64_t begin = 0; begin < task_.cols; begin += kPairedPlaces) {
      const int64_t count = std::min(kPairedPlaces, task_.cols - begin);
      pairs_.pack(working_.const_data_ptr<float>() + begin * width_, count, width_);
      pairs_.multiply(factor_.paired, begin, product.mutable_data_ptr<float>());
    }
    return product;
  }

  // The inverse of in_order.
  at::Tensor by_row(const at::Tensor& columns) const {
    return columns.index_select(0, at::tensor(places())).t().contiguous();
  }

  double second_pass() {
    std::vector<float> reciprocals;
    for (const float entry : factor_.diagonal) reciprocals.push_back(1 / entry);
    const at::Tensor gradients = gradient(), originals = by_row(original_), errors = by_row(error_);
    std::vector<Grid> grids(static_cast<size_t>(task_.scheme.groups(task_.cols)));
    double objective = 0;
    for (int64_t row = 0, at = 0; row < rows_; ++row, at += task_.cols) {
      for (size_t group = 0; group < grids.size(); ++group) grids[group] = grid_of(static_cast<int64_t>(group), row);
      const RowErrors view{
          originals.const_data_ptr<float>() + at,   reciprocals.data(), errors.mutable_data_ptr<float>() + at,
          gradients.mutable_data_ptr<float>() + at, task_.outliers,     kept(row)};
      const std::span codes(result_.matrix.codes.data() + (first_ + row) * task_.cols, static_cast<size_t>(task_.cols));
      objective += descend(factor_, view, grids, group_, levels_, codes);
    }
    return objective;
  }

  Grid grid_of(int64_t group, int64_t row) {
    const GridRows& rows = grids_at(group, row / kSolverRows);
    const int64_t lane = row % kSolverRows;
    return {rows.scale[lane], static_cast<uint8_t>(rows.zero[lane]), rows.minimum[lane]};
  }

  void store_codes(int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows_; ++row) {
      uint8_t* out = result_.matrix.codes.data() + (first_ + row) * task_.cols;
      for (int64_t place = begin; place < end; ++place)
        out[factor_.order[static_cast<size_t>(place)]] = codes_[static_cast<size_t>((place - begin) * width_ + row)];
    }
  }

  const MatrixTask& task_;
  const HessianFactor& factor_;
  const std::optional<Grid>& tensor_grid_;
  std::span<const float> missing_;  // [rows of the matrix, columns]; or empty
  const int64_t first_;
  GptqResult& result_;
  GridFitter fitter_;
  const int64_t rows_, strips_, width_, group_, unit_;
  const Levels levels_;
  const int64_t rounded_;  // places from here on stay in 16 bits
  const bool static_;      // grids come from the original weights
  at::Tensor original_, working_, error_;
  PairedErrors pairs_;
  std::vector<GridRows> grids_;   // by group and strip
  std::vector<UnitGrids> units_;  // by row, of the current unit
  std::vector<uint8_t> codes_;    // of the current block
  bool finite_ = true;            // scales, and what stays in 16 bits
};

struct ShardId {
  size_t matrix;
  int64_t first_row;
};

}  // namespace

std::vector<GptqResult> run_gptq(std::span<const MatrixTask> group, const HessianFactor& factor,
                                 std::span<const std::vector<float>> missing, const Context& context) {
  prepare_torch();
  std::vector<GptqResult> results;
  std::vector<std::optional<Grid>> tensor_grids;
  std::vector<ShardId> shards;
  for (const MatrixTask& task : group) {
    QuantizedMatrix& matrix =
        results.emplace_back(GptqResult{.matrix = make_quantized(task.scheme, task.rows, task.cols)}).matrix;
    matrix.outlier_columns = task.outliers;
    matrix.outliers.resize(static_cast<size_t>(task.rows) * task.outliers.size());
    tensor_grids.push_back(fit_tensor_grid(without_outliers(task)));
    for (int64_t row = 0; row < task.rows; row += shard_rows(task)) shards.push_back({results.size() - 1, row});
  }
  std::vector<double> objectives(shards.size());
  std::vector<uint8_t> finite(shards.size());
  run_shards(context, static_cast<int64_t>(shards.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const auto [matrix, row] = shards[static_cast<size_t>(i)];
    RowShard shard(group[matrix], factor, tensor_grids[matrix],
                   missing.empty() ? std::span<const float>{} : missing[matrix], row, results[matrix]);
    finite[static_cast<size_t>(i)] = shard.solve(objectives[static_cast<size_t>(i)]);
  });
  for (size_t i = 0; i < shards.size(); ++i) {
    results[shards[i].matrix].objective += objectives[i];
    results[shards[i].matrix].finite = results[shards[i].matrix].finite && finite[i];
  }
  return results;
}

}  // namespace retort
