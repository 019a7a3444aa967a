#include "distill/windows.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace retort {
namespace {

// splitmix64 (Steele, Lea, Flood 2014): the standard library's shuffles differ between implementations.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Fisher-Yates. The remainder's bias is below 2^-40 for any text that fits in memory.
std::vector<int64_t> permutation(int64_t count, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random(seed) % i]);
  return order;
}

}  // namespace

TrainingWindows::TrainingWindows(std::vector<int32_t> ids, int64_t length, int64_t held_out, uint64_t seed)
    : ids_(std::move(ids)), length_(length), seed_(seed) {
  const int64_t windows = (static_cast<int64_t>(ids_.size()) - 1) / length_;
  if (windows < 2)
    fail("distill", "--data",
         "the text has " + std::to_string(ids_.size()) + " tokens, less than two windows of " + std::to_string(length_),
         "Give a longer text or a shorter --sequence-length");
  held_out_ = std::clamp<int64_t>(held_out, 1, std::max<int64_t>(1, windows / 10));
  training_ = windows - held_out_;
}

std::span<const int32_t> TrainingWindows::window(int64_t index) const {
  return std::span(ids_).subspan(static_cast<size_t>(index * length_), static_cast<size_t>(length_ + 1));
}

std::span<const int32_t> TrainingWindows::training_window(int64_t n) {
  if (const int64_t pass = n / training_; pass != pass_) {
    uint64_t state = seed_;
    const uint64_t pass_seed = next_random(state) + static_cast<uint64_t>(pass);
    order_ = permutation(training_, pass_seed);
    pass_ = pass;
  }
  return window(order_[static_cast<size_t>(n % training_)]);
}

}  // namespace retort
