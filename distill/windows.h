// Training data: one long run of token ids, cut into windows. The last windows are held out, the others come in an
// order drawn from the seed, another one for each pass over them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace retort {

// Windows are packed: they begin wherever the previous one ended, documents are not kept apart. Window i holds
// ids [i * length, (i + 1) * length] : one more than `length`, so that each position has the id that follows it.
class TrainingWindows {
 public:
  // At most a tenth of the windows, and at least one, is held out. Throws when there are fewer than two windows.
  TrainingWindows(std::vector<int32_t> ids, int64_t length, int64_t held_out, uint64_t seed);

  int64_t length() const { return length_; }
  int64_t training() const { return training_; }
  int64_t held_out() const { return held_out_; }
  // Number n of all training windows since the start, whatever pass it belongs to. Not thread-safe.
  std::span<const int32_t> training_window(int64_t n);
  std::span<const int32_t> held_out_window(int64_t n) const { return window(training_ + n); }

 private:
  std::span<const int32_t> window(int64_t index) const;

  std::vector<int32_t> ids_;
  int64_t length_, training_ = 0, held_out_ = 0;
  uint64_t seed_;
  int64_t pass_ = -1;           // the pass that order_ belongs to
  std::vector<int64_t> order_;  // a permutation of the training windows
};

}  // namespace retort
