#include "quantize/gptq/solver.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "model/shards.h"
#include "quantize/gptq/kernels.h"

namespace retort {
namespace {

constexpr int64_t kBlock = 128;

// Up to kSolverRows rows of one matrix. All tensors are [columns in the order of the solve, kSolverRows]: a column
// lies together, and rows are what the vector units work on side by side.
class RowShard {
 public:
  RowShard(const MatrixTask& task, const HessianFactor& factor, const std::optional<Grid>& tensor_grid, int64_t first,
           GptqResult& result)
      : task_(task),
        factor_(factor),
        tensor_grid_(tensor_grid),
        first_(first),
        result_(result),
        fitter_(task.scheme),
        rows_(std::min(kSolverRows, task.rows - first)),
        group_(task.scheme.group_size(task.cols)),
        static_(!std::ranges::is_sorted(factor.order) || group_ == task.cols),
        grids_(static_cast<size_t>(task.scheme.groups(task.cols))),
        codes_(static_cast<size_t>(kBlock * kSolverRows)) {}

  // False when the weights or a scale are not finite. `objective` grows by the shard's share.
  bool solve(double& objective) {
    if (!load()) return false;
    if (static_) fit_static_grids();
    for (int64_t begin = 0, end; begin < task_.cols; begin = end) {
      end = block_end(begin);
      objective += solve_block(begin, end);
      if (end == task_.cols) break;
      working_.slice(0, end).addmm_(factor_.feedback.slice(0, begin, end).slice(1, end).t(),
                                    error_.slice(0, begin, end));
    }
    return scales_finite_;
  }

 private:
  bool load() {
    at::Tensor rows = at::zeros({kSolverRows, task_.cols}, at::kFloat);
    const std::span values(rows.mutable_data_ptr<float>(), static_cast<size_t>(rows_ * task_.cols));
    task_.read(first_, rows_, values);
    if (!all_finite(values)) return false;
    original_ = rows.t().index_select(0, at::tensor(factor_.order)).contiguous();
    for (int64_t place = 0; place < task_.cols; ++place)
      if (factor_.dead[static_cast<size_t>(factor_.order[static_cast<size_t>(place)])]) original_[place].zero_();
    working_ = original_.clone();
    error_ = at::empty_like(original_);
    return true;
  }

  // Blocks do not straddle the start of a group, so that its grid can see all the feedback that it should.
  int64_t block_end(int64_t begin) const {
    if (static_) return std::min(begin + kBlock, task_.cols);
    if (group_ <= kBlock) return std::min(begin + kBlock / group_ * group_, task_.cols);
    return std::min(begin + kBlock, (begin / group_ + 1) * group_);
  }

  // The weights as GPTQ has them when it reaches place `begin`: each later column corrected on the supposition that
  // those between are free to move too, X = D F'^-1 for the plain sums of feedback D and the group's part F' of F.
  at::Tensor compensated(int64_t begin, int64_t end) const {
    const at::Tensor original = original_.slice(0, begin, end);
    if (begin == 0) return original;
    const at::Tensor feedback = factor_.feedback.slice(0, begin, end).slice(1, begin, end);
    return original + at::linalg_solve_triangular(feedback.t(), working_.slice(0, begin, end) - original,
                                                  /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  }

  // `weights` [columns of the group, kSolverRows].
  void fit_grids(int64_t group, const at::Tensor& weights, std::span<const float> importance) {
    const at::Tensor rows = weights.t().contiguous();
    GridRows& grids = grids_[static_cast<size_t>(group)];
    for (int64_t row = 0; row < rows_; ++row) {
      const std::span values(rows.const_data_ptr<float>() + row * rows.size(1), static_cast<size_t>(rows.size(1)));
      const Grid grid = tensor_grid_ ? *tensor_grid_ : fitter_.fit(values, importance);
      scales_finite_ = scales_finite_ && std::isfinite(grid.scale);
      grids.scale[row] = grid.scale;
      grids.inverse[row] = grid.scale == 0 ? 0.0f : 1.0f / grid.scale;
      grids.zero[row] = grid.zero;
      store_grid(row, group, grid);
    }
  }

  void store_grid(int64_t row, int64_t group, const Grid& grid) {
    const auto index = static_cast<size_t>((first_ + row) * result_.matrix.groups() + group);
    result_.matrix.scales[index] = grid.scale;
    if (!result_.matrix.zeros.empty()) result_.matrix.zeros[index] = grid.zero;
  }

  void fit_static_grids() {
    std::vector<int64_t> place(factor_.order.size());
    for (size_t i = 0; i < place.size(); ++i) place[static_cast<size_t>(factor_.order[i])] = static_cast<int64_t>(i);
    std::vector<float> importance(static_cast<size_t>(group_));
    for (int64_t first = 0; first < task_.cols; first += group_) {
      const std::span columns(place.data() + first, static_cast<size_t>(group_));
      std::ranges::transform(columns, importance.begin(),
                             [&](int64_t i) { return factor_.pivots[static_cast<size_t>(i)]; });
      const at::Tensor index = at::tensor(at::ArrayRef<int64_t>(columns.data(), columns.size()));
      fit_grids(first / group_, original_.index_select(0, index), importance);
    }
  }

  double solve_block(int64_t begin, int64_t end) {
    double objective = 0;
    float* working = working_.mutable_data_ptr<float>();
    const float* original = original_.const_data_ptr<float>();
    float* error = error_.mutable_data_ptr<float>();
    const float* feedback = factor_.feedback.const_data_ptr<float>();
    for (int64_t place = begin; place < end; ++place) {
      if (!static_ && place % group_ == 0) start_group(place);
      const int64_t at = place * kSolverRows, column = factor_.order[static_cast<size_t>(place)];
      uint8_t* codes = codes_.data() + (place - begin) * kSolverRows;
      const float miss = round_column(working + at, original + at, grids_[static_cast<size_t>(column / group_)],
                                      task_.scheme.max_code(), error + at, codes);
      objective += static_cast<double>(miss) * factor_.pivots[static_cast<size_t>(place)];
      feed_back(feedback + place * task_.cols + place + 1, error + at, end - place - 1, working + at + kSolverRows);
    }
    store_codes(begin, end);
    return objective;
  }

  void start_group(int64_t begin) {
    const int64_t end = begin + group_;
    fit_grids(begin / group_, compensated(begin, end),
              std::span(factor_.pivots).subspan(static_cast<size_t>(begin), static_cast<size_t>(group_)));
  }

  void store_codes(int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows_; ++row) {
      uint8_t* out = result_.matrix.codes.data() + (first_ + row) * task_.cols;
      for (int64_t place = begin; place < end; ++place)
        out[factor_.order[static_cast<size_t>(place)]] =
            codes_[static_cast<size_t>((place - begin) * kSolverRows + row)];
    }
  }

  const MatrixTask& task_;
  const HessianFactor& factor_;
  const std::optional<Grid>& tensor_grid_;
  const int64_t first_;
  GptqResult& result_;
  GridFitter fitter_;
  const int64_t rows_, group_;
  const bool static_;  // grids come from the original weights
  at::Tensor original_, working_, error_;
  std::vector<GridRows> grids_;  // by group
  std::vector<uint8_t> codes_;   // of the current block
  bool scales_finite_ = true;
};

struct ShardId {
  size_t matrix;
  int64_t first_row;
};

}  // namespace

std::vector<GptqResult> run_gptq(std::span<const MatrixTask> group, const HessianFactor& factor,
                                 const Context& context) {
  prepare_torch();
  std::vector<GptqResult> results;
  std::vector<std::optional<Grid>> tensor_grids;
  std::vector<ShardId> shards;
  for (const MatrixTask& task : group) {
    results.push_back({.matrix = make_quantized(task.scheme, task.rows, task.cols)});
    tensor_grids.push_back(fit_tensor_grid(task));
    for (int64_t row = 0; row < task.rows; row += kSolverRows) shards.push_back({results.size() - 1, row});
  }
  std::vector<double> objectives(shards.size());
  std::vector<uint8_t> finite(shards.size());
  run_shards(context, static_cast<int64_t>(shards.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const auto [matrix, row] = shards[static_cast<size_t>(i)];
    RowShard shard(group[matrix], factor, tensor_grids[matrix], row, results[matrix]);
    finite[static_cast<size_t>(i)] = shard.solve(objectives[static_cast<size_t>(i)]);
  });
  for (size_t i = 0; i < shards.size(); ++i) {
    results[shards[i].matrix].objective += objectives[i];
    results[shards[i].matrix].finite = results[shards[i].matrix].finite && finite[i];
  }
  return results;
}

}  // namespace retort
