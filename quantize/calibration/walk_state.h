// What a walk leaves on disk after each layer, so that a run that was killed continues where it stopped.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quantize/calibration/layer_walk.h"
#include "quantize/quantizer.h"

namespace retort {

// Everything that the result depends on, as a digest: weights, plan, method and options, calibration tokens, the
// kind of device. It is the same for any number of threads.
std::string run_key(const ModelSource& source, std::span<const TensorPlan> plan, const QuantizeOptions& options,
                    const at::Tensor& windows, const Context& context);

// In `directory`: for each finished layer what was solved, before rows are divided (awq/folding.h). State of another
// key is removed. The text's hidden states are not kept: the solved layers give them again.
class WalkState {
 public:
  WalkState(std::filesystem::path directory, std::string key);
  std::optional<SolvedLayer> load_layer(int64_t layer) const;
  // The layer counts as finished when this returns.
  void save_layer(int64_t layer, const SolvedLayer& solved);

 private:
  std::filesystem::path file(int64_t layer) const;

  std::filesystem::path directory_;
  std::string key_;
};

}  // namespace retort
