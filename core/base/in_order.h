// Work on a long row of things by all threads, whose results are taken in the order of the things.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

#include "core/base/thread_pool.h"

namespace retort {

// Takes what several threads make in the order of its numbers, 0, 1, ..., and never two at once.
template <typename Made, typename Take>
class TakenInOrder {
 public:
  // `most`: how many may lie ready before a thread that makes more of them waits.
  TakenInOrder(size_t most, const Take& take) : most_(most), take_(take) {}

  // Each number comes once, begun in rising order. The thread that hands in what all wait for takes it, and with it
  // whatever else is ready. After a failure nothing is taken.
  void hand_in(int64_t number, Made made) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return failed_ || number == next_ || ready_.size() < most_; });
    if (failed_) return;
    ready_.emplace(number, std::move(made));
    if (taking_) return;
    taking_ = true;
    while (!failed_ && !ready_.empty() && ready_.begin()->first == next_) take_next(lock);
    taking_ = false;
  }
  bool failed() {
    const std::lock_guard lock(mutex_);
    return failed_;
  }
  void fail() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  void take_next(std::unique_lock<std::mutex>& lock) {
    const Made made = std::move(ready_.extract(ready_.begin()).mapped());
    lock.unlock();
    take_(made);
    lock.lock();
    ++next_;
    changed_.notify_all();
  }

  const size_t most_;
  const Take& take_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Made> ready_;
  int64_t next_ = 0;
  bool taking_ = false, failed_ = false;
};

constexpr size_t kReadyRuns = 2;  // for each thread

// Calls take(make(first, count)) for the runs of `step` of [0, total), the last of which may be shorter: make by all
// threads, take in the order of the runs and never two together. A thread waits for others only where kReadyRuns runs
// for each of them are made and not yet taken. The first exception is rethrown; nothing is made or taken after it.
template <typename Make, typename Take>
void in_order(int64_t total, int64_t step, ThreadPool& threads, const Make& make, const Take& take) {
  using Made = decltype(make(total, step));
  TakenInOrder<Made, Take> taken(kReadyRuns * static_cast<size_t>(threads.size()), take);
  threads.run((total + step - 1) / step, [&](int64_t run) {
    const int64_t first = run * step;
    if (taken.failed()) return;
    try {
      taken.hand_in(run, make(first, std::min(step, total - first)));
    } catch (...) {
      taken.fail();
      throw;
    }
  });
}

}  // namespace retort
