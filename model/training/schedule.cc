#include "model/training/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace retort {

double share_done(const Budget& budget, int64_t steps, double seconds) {
  const double by_steps = budget.steps > 0 ? static_cast<double>(steps) / static_cast<double>(budget.steps) : 0;
  const double by_seconds = budget.seconds > 0 ? seconds / budget.seconds : 0;
  return std::max(by_steps, by_seconds);
}

double rate_factor(double share, double warmup) {
  share = std::clamp(share, 0.0, 1.0);
  if (share < warmup) return share / warmup;
  return warmup < 1 ? 0.5 * (1 + std::cos(std::numbers::pi * (share - warmup) / (1 - warmup))) : 1;
}

}  // namespace retort
