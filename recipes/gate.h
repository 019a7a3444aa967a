// A condition on measured numbers: "scored.kl_mean < 0.05", "student.perplexity <= 1.1 * teacher.perplexity".
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace retort {

struct Metric {
  std::string stage, key;  // no stage: a number
  double number = 0;
};

struct Gate {
  std::string text;
  Metric left, right;
  std::string comparison;  // < <= > >=
  double factor = 1;       // of the right side
};

// Nothing when `text` is no gate. A metric without a stage belongs to `stage` (which may be empty: refused).
std::optional<Gate> parse_gate(std::string_view text, const std::string& stage);

struct GateResult {
  double value = 0, limit = 0;
  bool passed = false;  // never with a NaN
};
GateResult evaluate_gate(const Gate& gate, const std::function<double(const Metric&)>& measured);

}  // namespace retort
