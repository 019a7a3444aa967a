// The state of a run between two steps, and the checkpoints that hold it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

#include "core/base/json.h"
#include "distill/distill.h"
#include "model/training/adamw.h"

namespace retort {

struct RunState {
  at::Tensor values;  // flat float32: the student's weights
  AdamWState adam;    // counts the steps
  double seconds = 0;
  double loss = 0;             // of the last step
  uint64_t metrics_bytes = 0;  // length of metrics.jsonl after the last step
  std::vector<HeldOutLoss> held_out;

  int64_t steps() const { return adam.steps; }
};

// Checkpoints lie in `directory`/resume: a folder per checkpoint, complete when it has its final name.
class StateStore {
 public:
  // `identity`: everything that the bytes of the result depend on.
  StateStore(const std::filesystem::path& directory, Json identity);
  void save(const RunState& state) const;
  // Overwrites `state`, its tensors in place, with the newest checkpoint, if there is one. Throws when that is of
  // another run.
  void load(RunState& state) const;
  void remove() const;

 private:
  std::filesystem::path directory_;
  Json identity_;
};

}  // namespace retort
