// One step's arithmetic: loss and gradient of a batch, over fixed shards.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/base/context.h"
#include "model/training/loss.h"
#include "model/training/parameters.h"

namespace retort {

struct Teacher {
  ModelConfig config;
  DecoderWeights weights;
};

// Compute type: float32 on a CPU, bfloat16 on a GPU.
at::ScalarType compute_type(const at::Device& device);

class Trainer {
 public:
  // `windows_per_shard` windows run through the models together; a batch is cut into shards of that many, of which
  // `side_by_side` are in work at a time (the result does not depend on it). The references must outlive the trainer.
  Trainer(const Teacher& teacher, const StudentParameters& student, const LossOptions& loss, int64_t windows_per_shard,
          int64_t side_by_side, const Context& context);

  // batch [windows, length + 1] int64 on the CPU. `gradient`, flat float32, becomes the gradient of the mean loss
  // over all tokens of the batch: shards are weighted by their tokens and added in their order, whatever the number
  // of threads.
  LossSums gradient(const at::Tensor& batch, at::Tensor& gradient) const;
  // The sums alone, with `values` (laid out like the student's) as the student's weights.
  LossSums evaluate(const at::Tensor& batch, const at::Tensor& values) const;

 private:
  struct ShardResult {
    LossSums sums;
    std::vector<at::Tensor> gradients;  // as the slices
  };
  int64_t shards_of(const at::Tensor& batch) const;
  at::Tensor shard_of(const at::Tensor& batch, int64_t index) const;
  ShardResult run_shard(const at::Tensor& windows, const at::Tensor& values, double scale, bool with_gradient) const;
  void add_gradients(const std::vector<ShardResult>& results, int64_t count, at::Tensor& gradient) const;

  const Teacher& teacher_;
  const StudentParameters& student_;
  LossOptions loss_;
  int64_t windows_per_shard_, side_by_side_;
  const Context& context_;
};

}  // namespace retort
