// Which program loads what: answered from a plan, before any computation.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

struct Carrier {
  std::string_view format;     // of retort export
  std::string_view packed[2];  // layouts of core/pack, the first that holds a matrix
};

// A matrix is loaded when a carrier's layout holds it and `refuses` has nothing against it.
struct Target {
  std::string_view name;
  std::span<const Carrier> carriers;  // the best first: it holds matrices of different schemes side by side
  std::string (*refuses)(const Scheme&, int64_t rows, int64_t cols);
  std::span<const std::string_view> types;  // that --scheme auto chooses from
  // Matrices of a layer that share an input (q, k, v; gate, up) become one matrix when the target loads them, and must
  // be of one scheme.
  bool fuses = false;

  bool holds(const TensorPlan& plan) const;  // in its best format
};

// An unknown target is a usage Error that names the nearest.
const Target& find_target(std::string_view name);

struct TargetVerdict {
  std::string target;
  std::string format;                // the --format of retort export to hand over; empty: none holds all tensors
  std::vector<std::string> reasons;  // why the target cannot load it, one line per kind of tensor; empty: it can
  bool loads() const { return reasons.empty(); }
};

std::vector<std::string> target_names();
// As find_target.
TargetVerdict judge_target(std::string_view target, std::span<const TensorPlan> plans);

}  // namespace retort
