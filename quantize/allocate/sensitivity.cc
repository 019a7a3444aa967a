#include "quantize/allocate/sensitivity.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/base/error.h"
#include "model/calibration.h"
#include "model/decoder.h"
#include "model/shards.h"
#include "quantize/allocate/measured_units.h"
#include "quantize/artifact.h"
#include "quantize/grid.h"
#include "quantize/rounding.h"

namespace retort {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The float model with what it computes on the windows, against which changed models are held.
class DivergenceMeter {
 public:
  DivergenceMeter(const ModelSource& source, const at::Tensor& ids, Context& context)
      : config_(source.config()), context_(context), ids_(ids.split(1)) {
    placement_.device = parse_device(context.device);
    weights_ = load_weights(source, placement_);
    for (at::Tensor& window : ids_) window = window.to(placement_.device);
    entrances_.resize(ids_.size());
    expected_.resize(ids_.size());
    run_shards(context_, static_cast<int64_t>(ids_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      const auto window = static_cast<size_t>(i);
      expected_[window] = log_probabilities(weights_, window, -1, &entrances_[window]);
    });
  }

  DecoderWeights weights() const { return weights_; }  // tensors are shared, not copied
  const Placement& placement() const { return placement_; }

  // KL(float || changed) in nats per token. `changed` is the float model before `layer`; -1: nowhere.
  double divergence(const DecoderWeights& changed, int64_t layer) const {
    std::vector<double> sums(ids_.size());
    run_shards(context_, static_cast<int64_t>(ids_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      const auto window = static_cast<size_t>(i);
      const at::Tensor got = log_probabilities(changed, window, layer, nullptr);
      sums[window] = at::kl_div(got, expected_[window], at::Reduction::Sum, /*log_target=*/true).item<double>();
    });
    double sum = 0;
    for (const double part : sums) sum += part;
    return sum / static_cast<double>(static_cast<int64_t>(ids_.size()) * ids_.front().size(1));
  }

 private:
  at::Tensor log_probabilities(const DecoderWeights& weights, size_t window, int64_t layer,
                               std::vector<at::Tensor>* entrances) const {
    at::Tensor hidden = layer < 0 ? embed(weights.top, ids_[window]) : entrances_[window][static_cast<size_t>(layer)];
    for (int64_t i = std::max<int64_t>(0, layer); i < config_.layers; ++i) {
      if (entrances) entrances->push_back(hidden);
      hidden = layer_forward(config_, i, weights.layers[static_cast<size_t>(i)], hidden);
    }
    if (entrances) entrances->push_back(hidden);
    return at::log_softmax(head_logits(weights.top, final_norm(config_, weights.top, hidden)), -1);
  }

  const ModelConfig& config_;
  Context& context_;
  Placement placement_;
  std::vector<at::Tensor> ids_;  // of each window [1, tokens]
  DecoderWeights weights_;
  std::vector<std::vector<at::Tensor>> entrances_;  // of each window: the input of each layer and of the final norm
  std::vector<at::Tensor> expected_;                // of each window: log-probabilities [1, tokens, vocabulary]
};

Scheme reference_scheme(const std::vector<Scheme>& candidates) {
  const auto found = std::ranges::find_if(candidates, [](const Scheme& scheme) { return scheme.bits >= 3; });
  return found == candidates.end() ? candidates.back() : *found;
}

class Measurement {
 public:
  Measurement(const ModelSource& source, std::span<const TensorPlan> plans, const QuantizeOptions& options,
              Context& context)
      : source_(source),
        plans_(plans),
        grid_(options.grid == "max" ? GridRule::kLargestWeight : GridRule::kSmallestError),
        context_(context),
        windows_(sensitivity_windows(source.config(), options)),
        measured_(measured_units(source.config(), plans, windows_)) {}

  std::vector<double> run(const QuantizeOptions& options) {
    const at::Tensor ids =
        calibration_windows(source_, options.calibration, windows_.count, windows_.length, "quantize");
    windows_.count = ids.size(0);
    const auto start = std::chrono::steady_clock::now();
    const DivergenceMeter meter(source_, ids, context_);
    context_.progress.message(fmt::format(
        "--scheme auto measures {} matrices, one after the other, on {} windows of {} tokens: about {:.0f} s",
        measured_.units.size(), windows_.count, windows_.length, std::ceil(measured_.passes * seconds_since(start))));
    std::vector<double> coefficients(plans_.size());
    context_.progress.begin("sensitivity", static_cast<int64_t>(measured_.units.size()), "matrices");
    int64_t done = 0;
    for (const MeasuredUnit& unit : measured_.units) {
      context_.check_interrupted();
      const double coefficient = coefficient_of(unit, meter);
      for (const size_t member : unit.members) coefficients[member] = coefficient;
      context_.progress.update(++done, plans_[unit.members.front()].tensor->name);
    }
    context_.progress.end();
    return coefficients;
  }

  Json report() const {
    return {{"measure", "KL(float || one matrix rounded), nats per token"},
            {"windows", windows_.count},
            {"tokens", windows_.count * windows_.length},
            {"measurements", measured_.units.size()}};
  }

 private:
  double coefficient_of(const MeasuredUnit& unit, const DivergenceMeter& meter) {
    DecoderWeights weights = meter.weights();
    double error = 0;
    for (const size_t member : unit.members) error += round_into(weights, plans_[member], meter.placement());
    if (!(error > 0)) return 0.0;
    const double divergence = meter.divergence(weights, unit.layer);
    if (!std::isfinite(divergence))
      fail("quantize", plans_[unit.members.front()].tensor->name,
           "the divergence with this matrix rounded is not finite", "Leave out --calibration for --scheme auto");
    return std::max(0.0, divergence) / error;
  }

  // Returns the square of the relative error.
  double round_into(DecoderWeights& weights, const TensorPlan& plan, const Placement& placement) {
    TensorPlan reference = plan;
    reference.scheme = reference_scheme(plan.candidates);
    const SolvedMatrix solved = round_to_nearest(task_of(source_, reference), {}, grid_, context_);
    if (!solved.matrix) return 0.0;  // it will be kept as it is
    const QuantizedMatrix& matrix = *solved.matrix;
    at::Tensor values = at::empty({matrix.rows, matrix.cols}, at::kFloat);
    dequantize_rows(matrix, 0, matrix.rows, {values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())});
    values = values.to(placement.device);
    const Role role = plan.rule->role;
    (plan.layer < 0 ? weights.top : weights.layers[static_cast<size_t>(plan.layer)])(role) = values;
    if (role == Role::kEmbedding && source_.config().tied_embeddings) weights.top(Role::kHead) = values;
    return std::pow(solved.relative_error.value_or(0.0), 2);
  }

  const ModelSource& source_;
  std::span<const TensorPlan> plans_;
  const GridRule grid_;
  Context& context_;
  SensitivityWindows windows_;
  const MeasuredUnits measured_;
};

}  // namespace

std::vector<double> measure_sensitivity(const ModelSource& source, std::span<const TensorPlan> plans,
                                        const QuantizeOptions& options, Context& context, Json& report) {
  prepare_torch();
  const at::NoGradGuard no_grad;
  Measurement measurement(source, plans, options, context);
  std::vector<double> coefficients = measurement.run(options);
  report.update(measurement.report());
  return coefficients;
}

}  // namespace retort
