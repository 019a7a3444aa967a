// A fixed set of threads. Work is cut into shards whose bounds do not depend on the number of threads,
// so that results do not either.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace retort {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // 0: all cores
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls body(i) for every i in [0, count), each once, begun in rising order, from size() threads (the caller is one).
  // Returns when all are done. The first exception is rethrown after the others have finished. Not reentrant.
  void run(int64_t count, const std::function<void(int64_t)>& body);
  // Calls body(first, last) for consecutive ranges of at most `grain` indices of [0, count).
  void run_ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace retort
