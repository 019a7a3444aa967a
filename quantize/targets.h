// Which program loads what: answered from a plan, before any computation.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

struct TargetVerdict {
  std::string target;
  std::string format;                // the --format of retort export to hand over; empty: none holds all tensors
  std::vector<std::string> reasons;  // why the target cannot load it, one line per kind of tensor; empty: it can
  bool loads() const { return reasons.empty(); }
};

std::vector<std::string> target_names();
// An unknown target is a usage Error that names the nearest.
TargetVerdict judge_target(std::string_view target, std::span<const TensorPlan> plans);

}  // namespace retort
