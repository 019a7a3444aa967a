#include "quantize/awq/scale_search.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/lanes.h"
#include "model/shards.h"
#include "quantize/grid.h"

namespace retort {
namespace {

constexpr int64_t kRows = 64;

// What a group's scale is multiplied with, and then what came out best.
constexpr float kFar[] = {1, 0.80f, 0.84f, 0.88f, 0.92f, 0.96f, 1.04f, 1.08f, 1.12f, 1.16f, 1.20f};
constexpr float kNear[] = {1, 0.98f, 1.02f};
constexpr int kSweeps = 2;

bool has_free_scales(const Scheme& scheme) {
  return !scheme.has_minima() && !scheme.is_super_block() && scheme.granularity != Granularity::kTensor;
}

at::Tensor row_sums(const at::Tensor& products) { return products.sum(1, /*keepdim=*/true, at::kDouble); }

// error = nearest value of the grid - weight; as encode() rounds.
RETORT_EACH_ISA void round_linear(const float* weights, int64_t size, float scale, float least, float most,
                                  float* error) {
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  for (int64_t i = 0; i < size; ++i) {
    float level = weights[i] * inverse;
    level = level < least ? least : level;
    level = level > most ? most : level;
    error[i] = scale * ((level + kRound) - kRound) - weights[i];
  }
}

RETORT_EACH_ISA void round_to_book(const float* weights, int64_t size, float scale, const float* levels, int count,
                                   float* error) {
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  for (int64_t i = 0; i < size; ++i) {
    float level = levels[0];
    for (int k = 1; k < count; ++k)
      level = weights[i] * inverse > 0.5f * (levels[k - 1] + levels[k]) ? levels[k] : level;
    error[i] = scale * level - weights[i];
  }
}

// The grids of one group in all rows of a shard, and what they leave.
struct GroupChoice {
  at::Tensor scales;    // [rows, 1]
  at::Tensor rounding;  // [rows, 1] the scales that the codes are the nearest for
  at::Tensor error;     // [rows, group] Q - W
  at::Tensor cost;      // [rows, 1] double: error H error^T of the group, and twice that with the other groups

  void take_better(const GroupChoice& other) {
    const at::Tensor better = other.cost < cost;
    scales = at::where(better, other.scales, scales);
    rounding = at::where(better, other.rounding, rounding);
    error = at::where(better, other.error, error);
    cost = at::where(better, other.cost, cost);
  }
};

class RowShard {
 public:
  RowShard(const MatrixTask& task, const at::Tensor& moment, QuantizedMatrix& matrix, int64_t first)
      : moment_(moment),
        matrix_(matrix),
        scale_type_(task.scale_type),
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
    GroupChoice best = best_of(group, stored_scales(group), kFar);
    best.take_better(best_of(group, best.scales, kNear));
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

  // As the matrix can hold them.
  at::Tensor rounded(at::Tensor scales) const {
    scales = scales.contiguous();
    const std::span values(scales.mutable_data_ptr<float>(), static_cast<size_t>(scales.numel()));
    for (float& value : values) value = round_scale(value, scale_type_);
    return scales;
  }

  // Each weight at the nearest code under the scale, times each of the factors in turn and rounded.
  GroupChoice best_of(int64_t group, const at::Tensor& scales, std::span<const float> factors) const {
    const auto count = static_cast<int64_t>(factors.size());
    const at::Tensor multiples = at::tensor(at::ArrayRef<float>(factors.data(), factors.size())).unsqueeze(1);
    const at::Tensor tried = rounded(scales.t() * multiples).view({count * rows_, 1});
    const at::Tensor errors = at::empty({count * rows_, group_}, at::kFloat);
    for (int64_t i = 0; i < count * rows_; ++i)
      round(tried.const_data_ptr<float>()[i], matrix_.zero(first_ + i % rows_, group),
            weights_of_group_.const_data_ptr<float>() + i % rows_ * group_,
            errors.mutable_data_ptr<float>() + i * group_);
    const at::Tensor pulled = at::mm(errors, moment_of_group_).view({count, rows_, group_});
    const at::Tensor costs =
        pulled.add_(others_, 2).mul_(errors.view({count, rows_, group_})).sum(2, /*keepdim=*/false, at::kDouble);
    const at::Tensor choice = costs.argmin(0) * rows_ + at::arange(rows_);
    const at::Tensor best = tried.index_select(0, choice);
    return {best, best, errors.index_select(0, choice), costs.view({-1, 1}).index_select(0, choice)};
  }

  void round(float scale, int zero, const float* weights, float* error) const {
    const Scheme& scheme = matrix_.scheme;
    const std::span<const float> levels = levels_of(scheme.book);
    if (levels.empty())
      round_linear(weights, group_, scale, static_cast<float>(-zero), static_cast<float>(scheme.max_code() - zero),
                   error);
    else
      round_to_book(weights, group_, scale, levels.data(), static_cast<int>(levels.size()), error);
  }

  // The same codes with the scale at which the derivative of the cost is zero.
  GroupChoice refitted(const GroupChoice& choice) const {
    const at::Tensor values = choice.error + weights_of_group_;  // of the present scales
    const at::Tensor pulled = at::mm(values, moment_of_group_);
    const at::Tensor wanted = row_sums(pulled * weights_of_group_) - row_sums(values * others_);
    const at::Tensor stretch = (wanted / row_sums(pulled * values)).nan_to_num(1, 1, 1).to(at::kFloat);
    GroupChoice result = choice;
    result.scales = rounded(choice.scales * stretch);
    result.error = values * (result.scales / choice.scales).nan_to_num(1, 1, 1) - weights_of_group_;
    const at::Tensor cost = row_sums((at::mm(result.error, moment_of_group_) + 2 * others_) * result.error);
    result.cost = at::where(result.scales * choice.scales > 0, cost, choice.cost);
    return result;
  }

  void store(int64_t group, const GroupChoice& choice) {
    const at::Tensor scales = choice.scales.contiguous(), rounding = choice.rounding.contiguous();
    const auto size = static_cast<size_t>(group_);
    for (int64_t row = 0; row < rows_; ++row) {
      const Grid grid{rounding.const_data_ptr<float>()[row], matrix_.zero(first_ + row, group)};
      matrix_.scales[index(row, group)] = scales.const_data_ptr<float>()[row];
      encode(
          matrix_.scheme, grid, {weights_of_group_.const_data_ptr<float>() + row * group_, size},
          std::span(matrix_.codes).subspan(static_cast<size_t>((first_ + row) * matrix_.cols + group * group_), size));
    }
  }

  size_t index(int64_t row, int64_t group) const {
    return static_cast<size_t>((first_ + row) * matrix_.groups() + group);
  }

  const at::Tensor& moment_;
  QuantizedMatrix& matrix_;
  const ScaleType scale_type_;
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
