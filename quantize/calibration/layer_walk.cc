#include "quantize/calibration/layer_walk.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/base/error.h"
#include "model/calibration.h"
#include "model/decoder.h"
#include "model/shards.h"
#include "quantize/awq/folding.h"
#include "quantize/calibration/embedded.h"
#include "quantize/calibration/output_error.h"
#include "quantize/calibration/second_moment.h"
#include "quantize/calibration/walk_state.h"
#include "quantize/outliers.h"

namespace retort {
namespace {

// In the order in which a layer's text reaches them.
constexpr std::array kInputs{Input::kAttentionNorm, Input::kAttention, Input::kFfnNorm, Input::kFfn};

// In the three forms that a walk needs.
struct LayerWeights {
  RoleTensors exact;      // float32, as the checkpoint has them
  RoleTensors original;   // the same in the type of the forward pass
  RoleTensors quantized;  // matrices that are solved in place of the original ones
};

class SequentialWalk : public LayerWalk {
 public:
  SequentialWalk(const ModelSource& source, std::span<const TensorPlan> plan, const QuantizeOptions& options,
                 const std::filesystem::path& state, Context& context)
      : source_(source),
        config_(source.config()),
        plan_(plan),
        quantizer_(find_quantizer(options.method)),
        solver_{.damp = options.damp,
                .activation_order = options.group_order == "activation",
                .second_pass = options.second_pass},
        follow_float_(options.aim == "float"),
        outliers_(options.outliers),
        context_(context),
        windows_(
            calibration_windows(source, options.calibration, options.samples, options.sequence_length, "quantize")),
        state_(state, run_key(source, plan, options, windows_, context)) {
    placement_.device = parse_device(context.device);
    if (options.precision == "bf16") type_ = at::kBFloat16;
    solver_.in_pairs = options.precision == "bf16";
    if (windows() < options.samples)
      context.progress.message("the calibration text has " + std::to_string(windows()) + " windows, not " +
                               std::to_string(options.samples));
  }

  int64_t windows() const override { return windows_.size(0); }

  SolvedLayer solve_layer(int64_t layer) override {
    std::optional<SolvedLayer> finished = state_.load_layer(layer);
    if (!finished) {
      const at::NoGradGuard no_grad;
      if (shards_.empty()) begin_at(layer);
      finished = solve(layer);
      state_.save_layer(layer, *finished);
    }
    divide_rows(*finished);
    return std::move(*finished);
  }

 private:
  SolvedLayer solve(int64_t layer) {
    LayerWeights weights = load(layer);
    SolvedLayer solved;
    for (const Input input : kInputs) {
      step(layer, weights);
      solve_group(layer, input, weights, solved);
      context_.check_interrupted();
    }
    if (layer + 1 < config_.layers) step(layer, weights);
    return solved;
  }

  // The text at the entrance of `layer`, behind those that an earlier run has solved.
  void begin_at(int64_t layer) {
    for (at::Tensor& hidden : embedded_shards(source_, windows_)) {
      const at::Tensor states = hidden.to(placement_.device);
      shards_.push_back({states, {}, Input::kNone});
      if (follow_float_) float_shards_.push_back({states, {}, Input::kNone});
    }
    for (int64_t finished = 0; finished < layer; ++finished) pass(finished);
  }

  void pass(int64_t layer) {
    LayerWeights weights = load(layer);
    const SolvedLayer solved = *state_.load_layer(layer);
    for (const TensorPlan& plan : plan_) {
      const auto matrix = solved.matrices.find(plan.tensor->name);
      if (plan.layer == layer && matrix != solved.matrices.end() && matrix->second.matrix)
        weights.quantized(plan.rule->role) = dequantized(matrix->second);
    }
    for (size_t i = 0; i <= kInputs.size(); ++i) step(layer, weights);
    context_.check_interrupted();
  }

  LayerWeights load(int64_t layer) const {
    LayerWeights weights;
    weights.exact = weights.original = load_layer(source_, layer, placement_, &context_.threads);
    const std::span<const TensorRule> rules = config_.family->tensors;
    run_shards(context_, static_cast<int64_t>(rules.size()), [&](int64_t i) {
      const TensorRule& rule = rules[static_cast<size_t>(i)];
      at::Tensor& tensor = weights.original(rule.role, rule.part);
      if (tensor.defined()) tensor = tensor.to(type_);
    });
    weights.quantized = weights.original;
    return weights;
  }

  void step(int64_t layer, const LayerWeights& weights) {
    run_shards(context_, static_cast<int64_t>(shards_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      layer_step(config_, layer, weights.quantized, shards_[static_cast<size_t>(i)]);
      if (follow_float_) layer_step(config_, layer, weights.original, float_shards_[static_cast<size_t>(i)]);
    });
    // States of one size leave holes that those of the next size do not fill. Giving them back takes time.
    if (context_.memory_limit != 0) malloc_trim(0);
  }

  void solve_group(int64_t layer, Input input, LayerWeights& weights, SolvedLayer& solved) {
    std::vector<MatrixTask> tasks;
    std::vector<Role> roles;
    for (const TensorPlan& plan : plan_) {
      if (plan.layer != layer || plan.rule->input != input || plan.scheme.is_dense()) continue;
      tasks.push_back(task_of(plan, weights.exact(plan.rule->role)));
      roles.push_back(plan.rule->role);
    }
    if (tasks.empty()) return;
    std::vector<at::Tensor> inputs;
    for (const LayerState& shard : shards_) inputs.push_back(shard.input);
    InputStatistics statistics = second_moment(inputs, windows(), context_);
    choose_outliers(tasks, outliers_, statistics.diagonal(), solver_.grid, context_);
    if (follow_float_) statistics.missing = missing(input, inputs, weights, roles);
    if (quantizer_.scales_inputs) statistics.mean_absolute = mean_absolute(inputs, context_);
    std::vector<SolvedMatrix> results =
        quantizer_.scales_inputs
            ? solve_scaled(quantizer_, {source_, layer, input, tasks, statistics}, solver_, solved, context_)
            : quantizer_.solve(tasks, &statistics, solver_, context_);
    add_output_errors(tasks, statistics, results, context_);
    for (SolvedMatrix& result : results)
      if (result.method != "rtn") result.method = quantizer_.name;
    for (size_t i = 0; i < tasks.size(); ++i) {
      if (results[i].matrix) weights.quantized(roles[i]) = dequantized(results[i]);
      solved.matrices.emplace(tasks[i].name, std::move(results[i]));
      weights.exact(roles[i]).reset();
      if (!follow_float_) weights.original(roles[i]).reset();
    }
  }

  // What the outputs W x of each matrix lack to what the float model has in their place. Matrices whose outputs are
  // added to the residual stream make up for what the stream has lost before them, too.
  std::vector<std::vector<float>> missing(Input input, std::span<const at::Tensor> inputs, const LayerWeights& weights,
                                          std::span<const Role> roles) const {
    const bool ends_in_stream = input == Input::kAttention || input == Input::kFfn;
    std::vector<at::Tensor> lags(shards_.size());
    run_shards(context_, static_cast<int64_t>(shards_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      const LayerState& quantized = shards_[static_cast<size_t>(i)];
      const LayerState& original = float_shards_[static_cast<size_t>(i)];
      at::Tensor& lag = lags[static_cast<size_t>(i)];
      lag = original.input - quantized.input;
      if (ends_in_stream) lag = (original.hidden - quantized.hidden) + at::linear(lag, weights.original(roles[0]));
    });
    const at::Tensor moment = cross_moment(lags, inputs, windows(), context_);
    std::vector<std::vector<float>> result;
    for (const Role role : roles) {
      const at::Tensor product = ends_in_stream ? moment : at::matmul(weights.exact(role).cpu(), moment);
      result.emplace_back(product.const_data_ptr<float>(), product.const_data_ptr<float>() + product.numel());
    }
    return result;
  }

  static MatrixTask task_of(const TensorPlan& plan, const at::Tensor& weight) {
    const at::Tensor values = weight.cpu();
    const int64_t cols = values.size(1);
    return {plan.tensor->name,
            values.size(0),
            cols,
            plan.scheme,
            [values, cols](int64_t first, int64_t count, std::span<float> out) {
              std::copy_n(values.const_data_ptr<float>() + first * cols, count * cols, out.data());
            },
            plan.scale_type};
  }

  // In the coordinates of the checkpoint: scaled columns are divided again.
  at::Tensor dequantized(const SolvedMatrix& solved) {
    const QuantizedMatrix& matrix = *solved.matrix;
    const at::Tensor values = at::empty({matrix.rows, matrix.cols}, at::kFloat);
    float* out = values.mutable_data_ptr<float>();
    context_.threads.run_ranges(matrix.rows, 64, [&](int64_t first, int64_t last) {
      const std::span rows(out + first * matrix.cols, static_cast<size_t>((last - first) * matrix.cols));
      dequantize_rows(matrix, first, last - first, rows);
    });
    if (!solved.column_factors.empty()) values.div_(at::tensor(solved.column_factors));
    return values.to(placement_.device, type_);
  }

  const ModelSource& source_;
  const ModelConfig& config_;
  std::span<const TensorPlan> plan_;
  const Quantizer& quantizer_;
  SolverOptions solver_;
  const bool follow_float_;
  const int64_t outliers_;
  Context& context_;
  at::Tensor windows_;  // ids [windows, tokens]
  WalkState state_;
  Placement placement_;
  at::ScalarType type_ = at::kFloat;  // of the matrices in a forward pass; the residual stream is in float32
  // Of the windows, in the model quantized so far; empty until the first layer that is solved.
  std::vector<LayerState> shards_;
  std::vector<LayerState> float_shards_;  // the same in the original model, where it is followed
};

}  // namespace

std::unique_ptr<LayerWalk> make_layer_walk(const ModelSource& source, std::span<const TensorPlan> plan,
                                           const QuantizeOptions& options, const std::filesystem::path& state,
                                           Context& context) {
  return std::make_unique<SequentialWalk>(source, plan, options, state, context);
}

}  // namespace retort
