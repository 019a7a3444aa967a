#include "quantize/quantize.h"

#include <chrono>
#include <map>
#include <memory>
#include <optional>

#include "core/base/error.h"
#include "core/base/files.h"
#include "quantize/allocate/assign.h"
#include "quantize/artifact.h"
#include "quantize/calibration/layer_walk.h"
#include "quantize/importance.h"
#include "quantize/memory.h"
#include "quantize/mixes.h"
#include "quantize/outliers.h"
#include "quantize/quantizer.h"
#include "quantize/rounding.h"
#include "quantize/targets.h"
#include "quantize/tune/tune.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr const char* kStateName = "calibration-state";

void check_options(const QuantizeOptions& options, const Quantizer& quantizer) {
  if (options.group_order != "none" && options.group_order != "activation")
    fail_usage("quantize", "--group-order", options.group_order + " is not an order", "Orders are none and activation");
  if (options.grid != "mse" && options.grid != "max")
    fail_usage("quantize", "--grid", options.grid + " is not a grid search", "They are mse and max");
  if (options.grid == "max" && quantizer.needs_calibration)
    fail_usage("quantize", "--grid", std::string(quantizer.name) + " searches its grids by the error of the outputs",
               "--grid max is for rtn and imatrix");
  if (options.scale_type != "f16" && options.scale_type != "portable")
    fail_usage("quantize", "--scale-type", options.scale_type + " is not one", "They are f16 and portable");
  if (!(options.damp >= 0 && options.damp <= 1))
    fail_usage("quantize", "--damp", "it is a share of the mean diagonal, from 0 to 1");
  if (options.aim != "quantized" && options.aim != "float")
    fail_usage("quantize", "--aim", options.aim + " is not an aim", "They are quantized and float");
  if (options.aim == "float" && !quantizer.needs_calibration)
    fail_usage("quantize", "--aim", options.method + " does not follow the float model", "--method gptq does");
  if (options.precision != "auto" && options.precision != "f32" && options.precision != "bf16")
    fail_usage("quantize", "--precision", options.precision + " is not one", "They are auto, f32 and bf16");
  const bool automatic = options.scheme == "auto";
  if (automatic && options.size.empty())
    fail_usage("quantize", "--size", "--scheme auto needs one", "Write it as 4.5bpw or 700MiB");
  if (options.outliers < 0) fail_usage("quantize", "--outliers", "a number of columns is not negative");
  if (automatic && options.outliers > 0)
    fail_usage("quantize", "--outliers", "--scheme auto spends its bits on types alone", "Leave one of them out");
  if (!automatic && !(options.size.empty() && options.types.empty()))
    fail_usage("quantize", options.size.empty() ? "--types" : "--size", "it goes with --scheme auto");
  if (quantizer.needs_calibration && options.calibration.empty())
    fail_usage("quantize", "--calibration", std::string(quantizer.name) + " needs a text to calibrate on");
  const bool both = !options.calibration.empty() && !options.imatrix.empty() && !automatic && !tunes(options);
  if (quantizer.weighs_columns && (both || (options.calibration + options.imatrix).empty()))
    fail_usage("quantize", "--imatrix",
               std::string(quantizer.name) + " needs a text to calibrate on or an importance matrix: one of them",
               "Give --calibration TEXT or --imatrix FILE");
  if (!quantizer.weighs_columns && !(options.imatrix + options.save_imatrix).empty())
    fail_usage("quantize", options.imatrix.empty() ? "--save-imatrix" : "--imatrix",
               std::string(quantizer.name) + " does not use importance matrices", "--method imatrix does");
  if (options.learn_rounding < 0 || options.tune_scales < 0)
    fail_usage("quantize", options.tune_scales < 0 ? "--tune-scales" : "--learn-rounding", "steps are not negative");
}

// With what the result depends on decided: "auto" is not the same on every machine.
QuantizeOptions decided(const QuantizeOptions& options, const Context& context) {
  QuantizeOptions result = options;
  const bool fast = context.device == "cpu" && __builtin_cpu_supports("avx512bf16");
  if (result.precision == "auto") result.precision = fast ? "bf16" : "f32";
  return result;
}

// What an earlier run left, but for the state that this one may continue from.
void clear_directory(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().filename() != kStateName) fs::remove_all(entry.path());
}

// The part of the options that the result depends on; paths are not.
Json describe(const QuantizeOptions& options, const Quantizer& quantizer,
              const std::optional<ImportanceMatrix>& importance, int64_t windows) {
  Json keep = Json::object();
  for (const auto& [pattern, type] : options.keep)
    if (!keep.contains(pattern)) keep[pattern] = type;  // the first counts
  Json json{{"method_version", quantizer.version}, {"keep", keep}, {"grid", options.grid}};
  if (importance)
    json["importance"] = {{"texts", importance->texts},
                          {"entries", importance->entries.size()},
                          {"windows", importance->windows},
                          {"window_tokens", importance->window_tokens}};
  if (tunes(options)) json["learn_rounding"] = options.learn_rounding, json["tune_scales"] = options.tune_scales;
  if (options.scheme == "auto") json["types"] = options.types;
  if (options.outliers > 0) json["outliers"] = options.outliers;
  if (!quantizer.needs_calibration) return json;
  json["samples"] = options.samples;
  json["windows"] = windows;  // fewer than the samples where the text is short
  json["sequence_length"] = options.sequence_length;
  json["group_order"] = options.group_order;
  json["damp"] = options.damp;
  json["second_pass"] = options.second_pass;
  json["aim"] = options.aim;
  json["precision"] = options.precision;
  return json;
}

bool is_linear(const TensorPlan& plan) { return plan.rule->input != Input::kNone; }

// Solves tensors in the order in which they are stored: a layer's matrices together where the method is calibrated.
class Solver {
 public:
  Solver(const ModelSource& source, const Quantizer& quantizer, std::unique_ptr<LayerWalk> walk,
         const std::optional<ImportanceMatrix>& importance, GridRule grid, Context& context)
      : source_(source),
        quantizer_(quantizer),
        walk_(std::move(walk)),
        importance_(importance),
        grid_(grid),
        context_(context) {}

  SolvedTensor solve(const TensorPlan& plan) {
    if (walk_ && plan.layer > layer_) solved_ = walk_->solve_layer(layer_ = plan.layer);
    SolvedTensor tensor{.plan = &plan};
    if (!plan.scheme.is_dense()) tensor.solved = solve_matrix(plan);
    const auto folded = solved_.vectors.find(plan.tensor->name);
    if (folded != solved_.vectors.end()) tensor.values = folded->second, tensor.changed_by = quantizer_.name;
    return tensor;
  }

  // Of a matrix that need not be solved as a whole.
  RunRounder rounder(const TensorPlan& plan) const {
    const auto statistics = statistics_of(plan);
    return {task_of(source_, plan), rounding_of(plan, statistics)};
  }

 private:
  std::optional<InputStatistics> statistics_of(const TensorPlan& plan) const {
    return importance_ ? input_statistics(*importance_, plan) : std::nullopt;
  }

  Rounding rounding_of(const TensorPlan& plan, const std::optional<InputStatistics>& statistics) const {
    if (!importance_) return {.grid = grid_};
    Rounding rounding = imatrix_rounding(plan.scheme, statistics ? &*statistics : nullptr, grid_);
    if (is_linear(plan) && !statistics) rounding.fallback = "nothing is known of its inputs: not weighted";
    return rounding;
  }

  SolvedMatrix solve_matrix(const TensorPlan& plan) {
    if (walk_ && is_linear(plan)) return std::move(solved_.matrices.at(plan.tensor->name));
    MatrixTask task = task_of(source_, plan);
    const auto statistics = statistics_of(plan);
    choose_outliers({&task, 1}, plan.outliers, statistics ? statistics->mean_square : std::vector<float>{}, grid_,
                    context_);
    return round_to_nearest(task, rounding_of(plan, statistics), context_);
  }

  const ModelSource& source_;
  const Quantizer& quantizer_;
  std::unique_ptr<LayerWalk> walk_;
  const std::optional<ImportanceMatrix>& importance_;
  const GridRule grid_;
  Context& context_;
  int64_t layer_ = -1;
  SolvedLayer solved_;  // layer_
};

void store(SolvedTensor tensor, QuantizedWriter& writer) {
  if (!tensor.plan->scheme.is_dense()) return writer.add_quantized(*tensor.plan, std::move(tensor.solved));
  if (tensor.values.empty()) return writer.add_dense(*tensor.plan);
  writer.add_folded(*tensor.plan, tensor.values, tensor.changed_by);
}

void require_as_asked(std::string_view tensor, const std::string& fallback) {
  if (!fallback.empty())
    fail("quantize", tensor, "with --strict there is no fallback: " + fallback,
         "Choose a scheme that fits, or keep the tensor with --keep");
}

void round_on_the_way(const TensorPlan& plan, RunRounder rounder, bool strict, QuantizedWriter& writer) {
  const std::string refusal = writer.add_rounded(plan, std::move(rounder));
  const std::string& fallback = refusal.empty() ? writer.reports().back().fallback : refusal;
  if (strict) require_as_asked(plan.tensor->name, fallback);
  if (!refusal.empty()) writer.add_unquantized(plan, refusal);
}

// Tensors are stored as they are solved; those to be tuned are given back instead.
std::vector<SolvedTensor> quantize_tensors(std::span<const TensorPlan> plans, Solver solver,
                                           const QuantizeOptions& options, QuantizedWriter& writer, Context& context) {
  std::vector<SolvedTensor> kept;
  context.progress.begin("quantize", static_cast<int64_t>(plans.size()), "tensors");
  int64_t done = 0;
  for (const TensorPlan& plan : plans) {
    context.check_interrupted();
    if (is_rounded_in_runs(plan, options)) {
      round_on_the_way(plan, solver.rounder(plan), options.strict, writer);
    } else {
      SolvedTensor tensor = solver.solve(plan);
      if (options.strict) require_as_asked(plan.tensor->name, tensor.solved.fallback);
      if (tunes(options))
        kept.push_back(std::move(tensor));
      else
        store(std::move(tensor), writer);
    }
    context.progress.update(++done, plan.tensor->name);
  }
  context.progress.end();
  return kept;
}

// With scheme "auto": each matrix in each of its types.
std::vector<TensorPlan> possible(std::span<const TensorPlan> plans) {
  std::vector<TensorPlan> all;
  for (const TensorPlan& plan : plans) {
    all.push_back(plan);
    for (const Scheme& scheme : plan.candidates) all.emplace_back(plan).scheme = scheme;
  }
  return all;
}

// Said before the work begins.
Json state_verdict(const QuantizeOptions& options, std::span<const TensorPlan> plans, Context& context) {
  if (options.target.empty()) return nullptr;
  const TargetVerdict verdict = judge_target(options.target, possible(plans));
  for (const std::string& reason : verdict.reasons) {
    if (options.strict) fail("quantize", options.target, "it does not load " + reason, "Without --strict this is done");
    context.progress.message(options.target + " does not load " + reason);
  }
  if (verdict.loads()) context.progress.message(options.target + " loads this as --format " + verdict.format);
  for (const std::string& held : verdict.held_as) context.progress.message(verdict.format + " holds " + held);
  return {{"target", verdict.target},
          {"loads", verdict.loads()},
          {"format", verdict.format},
          {"reasons", verdict.reasons},
          {"held_as", verdict.held_as}};
}

}  // namespace

QuantizeSummary quantize_model(const ModelSource& source, const fs::path& directory, const QuantizeOptions& asked,
                               Context& context) {
  const auto start = std::chrono::steady_clock::now();
  const Quantizer& quantizer = find_quantizer(asked.method);
  check_options(asked, quantizer);
  const QuantizeOptions options = decided(asked, context);
  std::vector<TensorPlan> plans = plan_tensors(source, options);
  QuantizeSummary summary;
  summary.verdict = state_verdict(options, plans, context);
  for (const TensorPlan& plan : plans)
    if (options.strict) require_as_asked(plan.tensor->name, plan.fallback);
  if (tunes(options)) check_tuning(source, options, context);
  require_memory(source, plans, options, context);
  if (options.scheme == "auto") summary.allocation = assign_types(source, plans, options, context);
  const fs::path state = directory / kStateName;
  clear_directory(directory);
  std::unique_ptr<LayerWalk> walk;
  if (quantizer.needs_calibration) walk = make_layer_walk(source, plans, options, state, context);
  const GridRule grid = options.grid == "max" ? GridRule::kLargestWeight : GridRule::kSmallestError;
  const int64_t windows = walk ? walk->windows() : 0;
  std::optional<ImportanceMatrix> importance;
  if (quantizer.weighs_columns) importance = obtain_importance(source, plans, options, context);
  QuantizedWriter writer(source, directory, context);
  std::vector<SolvedTensor> kept = quantize_tensors(
      plans, Solver(source, quantizer, std::move(walk), importance, grid, context), options, writer, context);
  if (tunes(options)) summary.tuning = tune(source, kept, options, state, context);
  for (const Json& phase : summary.tuning)
    if (options.strict) require_as_asked(phase["what"].get<std::string>(), phase.value("fallback", ""));
  for (SolvedTensor& tensor : kept) store(std::move(tensor), writer);
  for (const TensorReport& report : writer.reports())
    if (options.strict) require_as_asked(report.name, report.fallback);
  summary.scheme =
      find_mix(options.scheme) || options.scheme == "auto" ? options.scheme : name_of(parse_scheme(options.scheme));
  summary.method = options.method;
  if (options.scale_type != "f16") summary.scale_type = options.scale_type;
  writer.finish(summary, describe(options, quantizer, importance, windows));
  fs::remove_all(state);  // not before everything is on the disk
  summary.output_bytes = bytes_below(directory);
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  summary.peak_rss_bytes = peak_resident_bytes();
  return summary;
}

}  // namespace retort
