// One choice for each item, so that the sum of losses is least under a limit on the sum of sizes: the multiple-choice
// knapsack problem (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11) by dynamic programming.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace retort {

struct Choice {
  uint64_t size = 0;
  double loss = 0;
};

// The index of each item's choice; each item has 1 to 255 of them, with finite losses. Empty: even the smallest choices
// are above `limit`. Beyond the smallest choices, sizes are counted in steps of 1/65536 of what is left of `limit`,
// rounded up, or in their greatest common divisor where that is coarser: the result is then exact. Among equal losses
// the earlier choices of the later items win.
std::optional<std::vector<size_t>> choose_least_loss(std::span<const std::vector<Choice>> items, uint64_t limit);

}  // namespace retort
