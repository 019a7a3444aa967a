// Which program loads what: answered from a plan, before any computation.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/quantizer.h"

namespace retort {

// A matrix is loaded when the format holds it and the target has nothing against what the format makes of it.
struct Target {
  std::string_view name;
  std::string_view format;  // of retort export: the one that holds matrices of different schemes side by side
  std::string (*format_refuses)(const QuantizedMatrix& shape);  // as the exporter does (core/pack/held_as.h)
  Scheme (*held_as)(const Scheme&, int64_t cols);               // in that format
  std::string (*refuses)(const Scheme&, int64_t rows, int64_t cols);
  std::span<const std::string_view> types;  // that --scheme auto chooses from
  bool layers_only = false;                 // embedding and head have no place in the format as integers
  // Matrices of a layer that share an input (q, k, v; gate, up) become one matrix when the target loads them, and must
  // be of one scheme.
  bool fuses = false;

  bool holds(const TensorPlan& plan) const;
};

// An unknown target is a usage Error that names the nearest.
const Target& find_target(std::string_view name);

struct TargetVerdict {
  std::string target;
  std::string format;                // the --format of retort export to hand over; empty: it does not hold all tensors
  std::vector<std::string> reasons;  // why the target cannot load it, one line per kind of tensor; empty: it can
  std::vector<std::string> held_as;  // "int4-g128-asym as q5_0": what the format holds in another type
  bool loads() const { return reasons.empty(); }
};

std::vector<std::string> target_names();
// As find_target.
TargetVerdict judge_target(std::string_view target, std::span<const TensorPlan> plans);

}  // namespace retort
