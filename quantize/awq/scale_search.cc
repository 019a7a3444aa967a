#include "quantize/awq/scale_search.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/shards.h"
#include "quantize/grid.h"

namespace retort {
namespace {

constexpr int64_t kRows = 64;
constexpr int kSweeps = 2, kSteps = 10;  // on either side of the scale
constexpr float kStep = 0.02f;

bool has_free_scales(const Scheme& scheme) {
  return !scheme.has_minima() && !scheme.is_super_block() && scheme.granularity != Granularity::kTensor;
}

at::Tensor row_sums(const at::Tensor& products) { return products.sum(1, /*keepdim=*/true, at::kDouble); }

// The error that the group at hand leaves, by row, with what goes with it.
struct GroupChoice {
  at::Tensor scales;  // [rows, 1]
  at::Tensor codes;   // [rows, group] bytes
  at::Tensor error;   // [rows, group] Q - W
  at::Tensor cost;    // [rows, 1] double: error H error^T of the group, and twice that with the other groups

  void take_better(const GroupChoice& other) {
    const at::Tensor better = other.cost < cost;
    scales = at::where(better, other.scales, scales);
    codes = at::where(better, other.codes, codes);
    error = at::where(better, other.error, error);
    cost = at::where(better, other.cost, cost);
  }
};

class RowShard {
 public:
  RowShard(const MatrixTask& task, const at::Tensor& moment, QuantizedMatrix& matrix, int64_t first)
      : moment_(moment),
        matrix_(matrix),
        first_(first),
        rows_(std::min(kRows, task.rows - first)),
        group_(task.scheme.group_size(task.cols)),
        weights_(at::empty({rows_, task.cols}, at::kFloat)),
        error_(at::empty_like(weights_)) {
    const auto size = static_cast<size_t>(weights_.numel());
    task.read(first, rows_, {weights_.mutable_data_ptr<float>(), size});
    dequantize_rows(matrix, first, rows_, {error_.mutable_data_ptr<float>(), size});
    error_.sub_(weights_);
    pull_ = at::mm(error_, moment_);
  }

  void search() {
    for (int sweep = 0; sweep < kSweeps; ++sweep)
      for (int64_t group = 0; group < matrix_.groups(); ++group) search_group(group);
  }

 private:
  void search_group(int64_t group) {
    const int64_t begin = group * group_, end = begin + group_;
    weights_of_group_ = weights_.slice(1, begin, end).contiguous();
    moment_of_group_ = moment_.slice(0, begin, end).slice(1, begin, end);
    const at::Tensor before = error_.slice(1, begin, end);
    others_ = pull_.slice(1, begin, end) - at::mm(before, moment_of_group_);
    const at::Tensor start = stored_scales(group);
    GroupChoice best = rounded(group, start);
    for (int step = -kSteps; step <= kSteps; ++step)
      if (step != 0) best.take_better(rounded(group, start * (1 + kStep * static_cast<float>(step))));
    best.take_better(refitted(best));
    pull_.addmm_(best.error - before, moment_.slice(0, begin, end));
    before.copy_(best.error);
    store(group, best);
  }

  at::Tensor stored_scales(int64_t group) const {
    at::Tensor scales = at::empty({rows_, 1}, at::kFloat);
    float* out = scales.mutable_data_ptr<float>();
    for (int64_t row = 0; row < rows_; ++row) out[row] = matrix_.scales[index(row, group)];
    return scales;
  }

  // Each weight at the nearest code under these scales, rounded to f16.
  GroupChoice rounded(int64_t group, const at::Tensor& scales) const {
    GroupChoice choice{scales.to(at::kHalf).to(at::kFloat),
                       at::empty({rows_, group_}, at::kByte),
                       at::empty({rows_, group_}, at::kFloat),
                       {}};
    for (int64_t row = 0; row < rows_; ++row) {
      const Grid grid{choice.scales.const_data_ptr<float>()[row], matrix_.zero(first_ + row, group)};
      const auto size = static_cast<size_t>(group_);
      const std::span codes(choice.codes.mutable_data_ptr<uint8_t>() + row * group_, size);
      encode(matrix_.scheme, grid, {weights_of_group_.const_data_ptr<float>() + row * group_, size}, codes);
      decode(grid, codes, choice.error.mutable_data_ptr<float>() + row * group_);
    }
    choice.error.sub_(weights_of_group_);
    choice.cost = cost_of(choice.error);
    return choice;
  }

  void decode(const Grid& grid, std::span<const uint8_t> codes, float* out) const {
    const std::span<const float> levels = levels_of(matrix_.scheme.book);
    for (size_t i = 0; i < codes.size(); ++i)
      out[i] = grid.scale * (levels.empty() ? static_cast<float>(codes[i] - grid.zero) : levels[codes[i]]);
  }

  // The same codes with the scale at which the derivative of the cost is zero.
  GroupChoice refitted(const GroupChoice& choice) const {
    const at::Tensor values = choice.error + weights_of_group_;  // of the present scales
    const at::Tensor pulled = at::mm(values, moment_of_group_);
    const at::Tensor wanted = row_sums(pulled * weights_of_group_) - row_sums(values * others_);
    const at::Tensor stretch = (wanted / row_sums(pulled * values)).nan_to_num(1, 1, 1).to(at::kFloat);
    GroupChoice result = choice;
    result.scales = (choice.scales * stretch).to(at::kHalf).to(at::kFloat);
    result.error = values * (result.scales / choice.scales).nan_to_num(1, 1, 1) - weights_of_group_;
    result.cost = at::where(result.scales * choice.scales > 0, cost_of(result.error), choice.cost);
    return result;
  }

  at::Tensor cost_of(const at::Tensor& error) const {
    return row_sums((at::mm(error, moment_of_group_) + 2 * others_) * error);
  }

  void store(int64_t group, const GroupChoice& choice) {
    const at::Tensor scales = choice.scales.contiguous(), codes = choice.codes.contiguous();
    for (int64_t row = 0; row < rows_; ++row) {
      matrix_.scales[index(row, group)] = scales.const_data_ptr<float>()[row];
      std::copy_n(codes.const_data_ptr<uint8_t>() + row * group_, group_,
                  matrix_.codes.begin() + (first_ + row) * matrix_.cols + group * group_);
    }
  }

  size_t index(int64_t row, int64_t group) const {
    return static_cast<size_t>((first_ + row) * matrix_.groups() + group);
  }

  const at::Tensor& moment_;
  QuantizedMatrix& matrix_;
  const int64_t first_, rows_, group_;
  at::Tensor weights_, error_, pull_;                       // [rows, columns]: W, Q - W and (Q - W) H
  at::Tensor weights_of_group_, moment_of_group_, others_;  // others_: what the other groups' errors add to (Q - W) H
};

}  // namespace

void search_scales(const MatrixTask& task, const InputStatistics& statistics, QuantizedMatrix& matrix,
                   const Context& context) {
  if (!has_free_scales(task.scheme)) return;
  const int64_t n = statistics.features;
  const at::Tensor moment = at::from_blob(const_cast<float*>(statistics.second_moment.data()), {n, n}, at::kFloat);
  run_shards(context, (task.rows + kRows - 1) / kRows, [&](int64_t i) {
    const at::NoGradGuard no_grad;
    RowShard(task, moment, matrix, i * kRows).search();
  });
}

}  // namespace retort
