#include "quantize/allocate/choose.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace retort {
namespace {

constexpr uint64_t kSteps = 1 << 16;
constexpr double kNever = std::numeric_limits<double>::infinity();

uint64_t smallest(const std::vector<Choice>& choices) { return std::ranges::min(choices, {}, &Choice::size).size; }

// What each choice takes beyond the smallest of its item, in steps.
using Steps = std::vector<std::vector<uint64_t>>;

Steps count_steps(std::span<const std::vector<Choice>> items, uint64_t room) {
  uint64_t divisor = 0;
  Steps steps;
  for (const std::vector<Choice>& choices : items) {
    const uint64_t least = smallest(choices);
    std::vector<uint64_t>& extra = steps.emplace_back();
    for (const Choice& choice : choices) divisor = std::gcd(divisor, extra.emplace_back(choice.size - least));
  }
  const uint64_t step = std::max({divisor, room / kSteps, uint64_t{1}});
  for (std::vector<uint64_t>& extra : steps)
    for (uint64_t& size : extra) size = size / step + (size % step != 0);
  steps.push_back({room / step});  // the last: how many there are
  return steps;
}

// Least losses of the items so far by the steps they may take, and the choice of each item that leads there.
class Table {
 public:
  explicit Table(uint64_t room) : losses_(room + 1, 0.0) {}

  void add(const std::vector<Choice>& choices, std::span<const uint64_t> steps) {
    std::vector<double> losses(losses_.size(), kNever);
    std::vector<uint8_t>& chosen = chosen_.emplace_back(losses_.size());
    for (size_t c = 0; c < choices.size(); ++c)
      for (uint64_t room = steps[c]; room < losses.size(); ++room) {
        const double loss = losses_[room - steps[c]] + choices[c].loss;
        if (!(loss < losses[room])) continue;
        losses[room] = loss;
        chosen[room] = static_cast<uint8_t>(c);
      }
    losses_ = std::move(losses);
  }

  std::vector<size_t> best(const Steps& steps) const {
    std::vector<size_t> indices(chosen_.size());
    uint64_t room = losses_.size() - 1;
    for (size_t i = chosen_.size(); i-- > 0;) {
      indices[i] = chosen_[i][room];
      room -= steps[i][indices[i]];
    }
    return indices;
  }

 private:
  std::vector<double> losses_;
  std::vector<std::vector<uint8_t>> chosen_;
};

}  // namespace

std::optional<std::vector<size_t>> choose_least_loss(std::span<const std::vector<Choice>> items, uint64_t limit) {
  uint64_t least = 0;
  for (const std::vector<Choice>& choices : items) least += smallest(choices);
  if (least > limit) return std::nullopt;
  const Steps steps = count_steps(items, limit - least);
  Table table(steps.back().front());
  for (size_t i = 0; i < items.size(); ++i) table.add(items[i], steps[i]);
  return table.best(steps);
}

}  // namespace retort
