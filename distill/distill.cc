#include "distill/distill.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>

#include "core/base/error.h"
#include "distill/inputs.h"
#include "distill/metrics.h"
#include "distill/schedule.h"
#include "distill/state.h"
#include "distill/trainer.h"
#include "distill/windows.h"
#include "model/editable.h"
#include "model/shards.h"

namespace retort {
namespace {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// [count, length + 1] int64 of the windows that `window(i)` gives.
at::Tensor stack_windows(int64_t count, int64_t length,
                         const std::function<std::span<const int32_t>(int64_t)>& window) {
  at::Tensor batch = at::empty({count, length + 1}, at::kLong);
  int64_t* out = batch.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) out = std::ranges::copy(window(i), out).out;
  return batch;
}

// Shape of the run in steps and windows, from the options and the text.
struct Plan {
  int64_t windows_per_step, windows_per_shard, tokens_per_step;
  Budget budget;
};

Plan make_plan(const DistillOptions& o, const TrainingWindows& windows) {
  Plan plan;
  plan.windows_per_step = std::max<int64_t>(1, o.batch_tokens / windows.length());
  plan.windows_per_shard = std::clamp<int64_t>(o.micro_batch_tokens / windows.length(), 1, plan.windows_per_step);
  plan.tokens_per_step = plan.windows_per_step * windows.length();
  plan.budget = {o.steps, o.minutes * 60};
  const bool unlimited = o.steps == 0 && o.tokens == 0 && o.minutes == 0;
  const int64_t tokens = unlimited ? windows.training() * windows.length() : o.tokens;
  const int64_t steps = (tokens + plan.tokens_per_step - 1) / plan.tokens_per_step;
  if (steps > 0) plan.budget.steps = o.steps > 0 ? std::min(o.steps, steps) : steps;
  return plan;
}

class Run {
 public:
  Run(const Teacher& teacher, StudentParameters& student, TrainingWindows& windows, const LossOptions& loss,
      const DistillOptions& options, const StateStore& store, const std::filesystem::path& metrics, Context& context)
      : student_(student),
        windows_(windows),
        loss_(loss),
        options_(options),
        store_(store),
        context_(context),
        plan_(make_plan(options, windows)),
        trainer_(teacher, student, loss, plan_.windows_per_shard, context),
        adamw_{.weight_decay = options.weight_decay, .decayed = student.matrix_elements} {
    state_.values = student.values;
    state_.adam.mean = at::zeros_like(student.values);
    state_.adam.square = at::zeros_like(student.values);
    resumed_from_ = store_.load(state_) ? state_.steps() : 0;
    metrics_ = std::make_unique<MetricsLog>(metrics, state_.metrics_bytes);
    earlier_seconds_ = state_.seconds;
  }

  void train() {
    at::Tensor gradient = at::empty_like(student_.values);
    if (state_.held_out.empty()) evaluate();
    begin_progress();
    for (Stopwatch since_checkpoint; share() < 1;) {
      step(gradient);
      report_progress();
      if (since_checkpoint.seconds() >= options_.checkpoint_minutes * 60) {
        store_.save(state_);
        since_checkpoint = {};
      }
      stop_if_asked();
    }
    context_.progress.end();
  }

  DistillSummary summary() const {
    DistillSummary s;
    s.steps = state_.steps();
    s.tokens = s.steps * plan_.tokens_per_step;
    s.resumed_from = resumed_from_;
    s.seconds = state_.seconds;
    s.tokens_per_second = tokens_per_second();
    s.loss = state_.loss;
    s.held_out = state_.held_out;
    return s;
  }

 private:
  double share() const { return share_done(plan_.budget, state_.steps(), state_.seconds); }

  // The middle of the step that comes next, of which the clock only knows what the steps before took.
  double middle_of_step() const {
    const double average = state_.steps() > 0 ? state_.seconds / static_cast<double>(state_.steps()) : 0;
    const double by_steps = plan_.budget.steps > 0 ? 0.5 / static_cast<double>(plan_.budget.steps) : 0;
    const double by_seconds = plan_.budget.seconds > 0 ? 0.5 * average / plan_.budget.seconds : 0;
    return share() + std::max(by_steps, by_seconds);
  }

  void step(at::Tensor& gradient) {
    const Stopwatch watch;
    const double before = share(), rate = options_.learning_rate * rate_factor(middle_of_step(), options_.warmup);
    const int64_t first = state_.steps() * plan_.windows_per_step;
    const at::Tensor batch = stack_windows(plan_.windows_per_step, windows_.length(),
                                           [&](int64_t i) { return windows_.training_window(first + i); });
    const LossSums sums = trainer_.gradient(batch, gradient);
    const double norm = clip_gradient(context_, options_.clip, gradient);
    state_.loss = sums.mean(loss_);
    if (!std::isfinite(state_.loss) || !std::isfinite(norm))
      fail("distill", "step " + std::to_string(state_.steps() + 1), "the loss or its gradient is not finite",
           "Use a lower --learning-rate");
    adamw_step(context_, adamw_, rate, gradient, state_.adam, student_.values);
    state_.seconds += watch.seconds();
    record_step(sums, rate, norm);
    const auto due = [&](double share) {
      return std::floor(std::min(share, 1.0) * static_cast<double>(options_.evaluations));
    };
    if (due(share()) > due(before)) evaluate();
  }

  void record_step(const LossSums& sums, double rate, double norm) {
    const auto tokens = static_cast<double>(sums.tokens);
    metrics_->add({{"step", state_.steps()},
                   {"tokens", state_.steps() * plan_.tokens_per_step},
                   {"loss", state_.loss},
                   {"kl", sums.kl / tokens},
                   {"cross_entropy", sums.cross_entropy / tokens},
                   {"learning_rate", rate},
                   {"gradient_norm", norm}});
    state_.metrics_bytes = metrics_->bytes();
  }

  // The last evaluation is of the weights as they will be written.
  void evaluate() {
    const at::Tensor batch =
        stack_windows(windows_.held_out(), windows_.length(), [&](int64_t i) { return windows_.held_out_window(i); });
    const LossSums sums = trainer_.evaluate(batch, share() < 1 ? student_.values : rounded_values(student_));
    const auto tokens = static_cast<double>(sums.tokens);
    const HeldOutLoss e{state_.steps(), sums.mean(loss_), sums.kl / tokens, sums.cross_entropy / tokens};
    metrics_->add({{"step", e.step},
                   {"held_out_loss", e.loss},
                   {"held_out_kl", e.kl},
                   {"held_out_cross_entropy", e.cross_entropy}});
    state_.metrics_bytes = metrics_->bytes();
    state_.held_out.push_back(e);
  }

  double tokens_per_second() const {
    const double seconds = state_.seconds - earlier_seconds_;
    const int64_t tokens = (state_.steps() - resumed_from_) * plan_.tokens_per_step;
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  }

  // The bar counts what the run is limited by.
  bool by_clock() const { return plan_.budget.steps == 0; }

  void begin_progress() {
    if (by_clock())
      context_.progress.begin("distill", static_cast<int64_t>(plan_.budget.seconds), "seconds");
    else
      context_.progress.begin("distill", plan_.budget.steps * plan_.tokens_per_step, "tokens");
    context_.progress.resume(progress_units());
  }

  int64_t progress_units() const {
    return by_clock() ? static_cast<int64_t>(state_.seconds) : state_.steps() * plan_.tokens_per_step;
  }

  void report_progress() {
    char note[96];
    std::snprintf(note, sizeof note, "loss %.4f, held out %.4f, %.0f tokens/s", state_.loss,
                  state_.held_out.back().loss, tokens_per_second());
    context_.progress.update(progress_units(), note);
  }

  void stop_if_asked() {
    try {
      context_.check_interrupted();
    } catch (const Error&) {
      store_.save(state_);
      throw;
    }
  }

  StudentParameters& student_;
  TrainingWindows& windows_;
  const LossOptions& loss_;
  const DistillOptions& options_;
  const StateStore& store_;
  Context& context_;
  Plan plan_;
  Trainer trainer_;
  AdamWOptions adamw_;
  RunState state_;
  std::unique_ptr<MetricsLog> metrics_;
  int64_t resumed_from_ = 0;
  double earlier_seconds_ = 0;
};

// What of the summary is the same in every run of the same inputs.
Json lasting_report(const DistillSummary& summary, const Json& identity) {
  Json report{{"operation", "distill"}};
  report.update(to_json(summary));
  for (const char* key : {"resumed_from", "seconds", "tokens_per_second"}) report.erase(key);
  report["inputs"] = identity;
  return report;
}

}  // namespace

DistillSummary distill_model(const ModelSource& teacher_source, const ModelSource& student_source,
                             const std::filesystem::path& directory, const DistillOptions& options, Context& context) {
  prepare_torch();
  require_editable(student_source, "distill");
  const at::Device device = parse_device(context.device);
  const int64_t length = window_length(teacher_source.config(), student_source.config(), options.sequence_length);
  TrainingText text = read_training_text(teacher_source, student_source, options.data);
  TrainingWindows windows(std::move(text.ids), length, options.held_out, context.seed);
  const Json identity = run_identity(teacher_source, student_source, options, context);
  const StateStore store(directory, identity);
  const Teacher teacher{teacher_source.config(), load_weights(teacher_source, {compute_type(device), device})};
  StudentParameters student = load_student(student_source, device);
  const LossOptions loss{
      .temperature = options.temperature, .kl_weight = options.kl_weight, .vocabulary = text.vocabulary};

  Run run(teacher, student, windows, loss, options, store, directory / "metrics.jsonl", context);
  run.train();
  DistillSummary summary = run.summary();
  summary.teacher_parameters = teacher_source.config().parameters();
  summary.student_parameters = student_source.config().parameters();

  ModelWriter writer(directory, student_source.side_files());
  write_student(student, student_source, writer);
  writer.finish(student_source.config().json, lasting_report(summary, identity));
  store.remove();
  return summary;
}

}  // namespace retort
