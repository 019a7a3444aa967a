// The steps of a run, one after the other: gradient, clipping, AdamW, evaluation, metrics, checkpoints.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

#include "core/base/context.h"
#include "distill/distill.h"
#include "distill/metrics.h"
#include "distill/state.h"
#include "distill/windows.h"
#include "model/training/schedule.h"
#include "model/training/trainer.h"

namespace retort {

// Shape of a run in steps and windows, from the options and the text.
struct Plan {
  int64_t windows_per_step, windows_per_shard, tokens_per_step;
  int64_t side_by_side = 1;  // shards in work at a time
  Budget budget;
};
Plan make_plan(const DistillOptions& options, const TrainingWindows& windows);

// What a run works with; outlives it.
struct Setup {
  const DistillOptions& options;
  const Plan& plan;
  const LossOptions& loss;
  const Teacher& teacher;
  StudentParameters& student;
  TrainingWindows& windows;
  const StateStore& store;
};

class Run {
 public:
  // Continues from the checkpoint in the store, if there is one.
  Run(const Setup& setup, const std::filesystem::path& metrics, Context& context);
  // To the end of the budget. Interrupted, it leaves a checkpoint and throws.
  void train();
  DistillSummary summary() const;

 private:
  double share() const;
  double middle_of_step() const;
  void step(at::Tensor& gradient);
  void evaluate();
  void record_step(const LossSums& sums, double rate, double norm);
  double tokens_per_second() const;
  void begin_progress();
  int64_t progress_units() const;
  void report_progress();
  void stop_if_asked();

  const DistillOptions& options_;
  const Plan& plan_;
  const LossOptions& loss_;
  StudentParameters& student_;
  TrainingWindows& windows_;
  const StateStore& store_;
  Context& context_;
  Trainer trainer_;
  AdamWOptions adamw_;
  RunState state_;
  MetricsLog metrics_;
  int64_t resumed_from_;
  double earlier_seconds_;  // of the processes before this one
};

}  // namespace retort
