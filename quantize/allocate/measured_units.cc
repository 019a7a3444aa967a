#include "quantize/allocate/measured_units.h"

#include <algorithm>
#include <map>
#include <utility>

namespace retort {
namespace {

constexpr double kMostWork = 1e13;  // multiply-adds of all measurements together

std::vector<MeasuredUnit> units_of(std::span<const TensorPlan> plans, int64_t layers, int64_t run) {
  std::vector<MeasuredUnit> units;
  std::map<std::pair<int64_t, Role>, size_t> seen;
  for (size_t i = 0; i < plans.size(); ++i) {
    const TensorPlan& plan = plans[i];
    if (plan.candidates.empty()) continue;
    const int64_t group = plan.layer < 0 ? -1 : plan.layer / run;
    const auto [entry, fresh] = seen.emplace(std::pair{group, plan.rule->role}, units.size());
    if (fresh) units.push_back({plan.rule->role == Role::kHead ? layers : plan.layer, {}});
    units[entry->second].members.push_back(i);
  }
  return units;
}

// As parts of a pass through the whole model.
double passes_of(const std::vector<MeasuredUnit>& units, const ModelConfig& config, double weights) {
  const auto head = static_cast<double>(config.vocab_size * config.hidden_size);
  double sum = 0;
  for (const MeasuredUnit& unit : units) {
    const double share =
        1.0 - static_cast<double>(std::max<int64_t>(0, unit.layer)) / static_cast<double>(config.layers);
    sum += (head + share * (weights - head)) / weights;
  }
  return sum;
}

}  // namespace

SensitivityWindows sensitivity_windows(const ModelConfig& config, const QuantizeOptions& options) {
  constexpr int64_t kTokens = 2048;
  const int64_t length =
      options.sequence_length > 0 ? options.sequence_length : std::min<int64_t>(512, config.context_length);
  return {std::clamp<int64_t>(kTokens / length, 1, options.samples), length};
}

MeasuredUnits measured_units(const ModelConfig& config, std::span<const TensorPlan> plans,
                             const SensitivityWindows& windows) {
  auto weights = static_cast<double>(config.vocab_size * config.hidden_size);
  for (const TensorPlan& plan : plans)
    if (plan.rule->input != Input::kNone) weights += static_cast<double>(plan.tensor->elements());
  const double work = weights * static_cast<double>(windows.length * windows.count);
  MeasuredUnits measured;
  int64_t run = 1;  // layers
  do {
    measured.units = units_of(plans, config.layers, run);
    measured.passes = passes_of(measured.units, config, weights);
  } while (measured.passes * work > kMostWork && (run *= 2) < 2 * config.layers);
  return measured;
}

}  // namespace retort
