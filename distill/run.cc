#include "distill/run.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>

#include "core/base/error.h"

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

// The bar counts what the run is limited by.
bool by_clock(const Plan& plan) { return plan.budget.steps == 0; }

// The state that the store holds, or the one at the start.
RunState load_state(const StateStore& store, const at::Tensor& values) {
  RunState state;
  state.values = values;
  state.adam.mean = at::zeros_like(values);
  state.adam.square = at::zeros_like(values);
  store.load(state);
  return state;
}

}  // namespace

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

Run::Run(const Setup& setup, const std::filesystem::path& metrics, Context& context)
    : options_(setup.options),
      plan_(setup.plan),
      loss_(setup.loss),
      student_(setup.student),
      windows_(setup.windows),
      store_(setup.store),
      context_(context),
      trainer_(setup.teacher, student_, loss_, plan_.windows_per_shard, plan_.side_by_side, context),
      adamw_{.weight_decay = options_.weight_decay, .decayed = student_.matrix_elements},
      state_(load_state(store_, student_.values)),
      metrics_(metrics, state_.metrics_bytes),
      resumed_from_(state_.steps()),
      earlier_seconds_(state_.seconds) {}

void Run::train() {
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

DistillSummary Run::summary() const {
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

double Run::share() const { return share_done(plan_.budget, state_.steps(), state_.seconds); }

// The middle of the step that comes next, of which the clock only knows what the steps before took.
double Run::middle_of_step() const {
  const double average = state_.steps() > 0 ? state_.seconds / static_cast<double>(state_.steps()) : 0;
  const double by_steps = plan_.budget.steps > 0 ? 0.5 / static_cast<double>(plan_.budget.steps) : 0;
  const double by_seconds = plan_.budget.seconds > 0 ? 0.5 * average / plan_.budget.seconds : 0;
  return share() + std::max(by_steps, by_seconds);
}

void Run::step(at::Tensor& gradient) {
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

void Run::record_step(const LossSums& sums, double rate, double norm) {
  const auto tokens = static_cast<double>(sums.tokens);
  metrics_.add({{"step", state_.steps()},
                {"tokens", state_.steps() * plan_.tokens_per_step},
                {"loss", state_.loss},
                {"kl", sums.kl / tokens},
                {"cross_entropy", sums.cross_entropy / tokens},
                {"learning_rate", rate},
                {"gradient_norm", norm}});
  state_.metrics_bytes = metrics_.bytes();
}

// The last evaluation is of the weights as they will be written.
void Run::evaluate() {
  const at::Tensor batch =
      stack_windows(windows_.held_out(), windows_.length(), [&](int64_t i) { return windows_.held_out_window(i); });
  const LossSums sums = trainer_.evaluate(batch, share() < 1 ? student_.values : rounded_values(student_));
  const auto tokens = static_cast<double>(sums.tokens);
  const HeldOutLoss e{state_.steps(), sums.mean(loss_), sums.kl / tokens, sums.cross_entropy / tokens};
  metrics_.add({{"step", e.step},
                {"held_out_loss", e.loss},
                {"held_out_kl", e.kl},
                {"held_out_cross_entropy", e.cross_entropy}});
  state_.metrics_bytes = metrics_.bytes();
  state_.held_out.push_back(e);
}

double Run::tokens_per_second() const {
  const double seconds = state_.seconds - earlier_seconds_;
  const int64_t tokens = (state_.steps() - resumed_from_) * plan_.tokens_per_step;
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

void Run::begin_progress() {
  if (by_clock(plan_))
    context_.progress.begin("distill", static_cast<int64_t>(plan_.budget.seconds), "seconds");
  else
    context_.progress.begin("distill", plan_.budget.steps * plan_.tokens_per_step, "tokens");
  context_.progress.resume(progress_units());
}

int64_t Run::progress_units() const {
  return by_clock(plan_) ? static_cast<int64_t>(state_.seconds) : state_.steps() * plan_.tokens_per_step;
}

void Run::report_progress() {
  char note[96];
  std::snprintf(note, sizeof note, "loss %.4f, held out %.4f, %.0f tokens/s", state_.loss, state_.held_out.back().loss,
                tokens_per_second());
  context_.progress.update(progress_units(), note);
}

void Run::stop_if_asked() {
  try {
    context_.check_interrupted();
  } catch (const Error&) {
    store_.save(state_);
    throw;
  }
}

}  // namespace retort
