#include "core/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace retort {
namespace {

constexpr int kSpins = 4000;  // about 20 microseconds: decode hands out work many times per token

// Shards are handed out by one word: the number of the run above, the next shard below. kClosed: being prepared.
constexpr uint64_t kClosed = 0xffffffffu;
constexpr uint64_t run_of(uint64_t ticket) { return ticket >> 32; }
constexpr uint64_t shard_of(uint64_t ticket) { return ticket & kClosed; }

}  // namespace

// A run waits for its shards, not for its threads: a thread that was not scheduled in time finds the run over.
struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;  // under mutex

  std::atomic<uint64_t> ticket{kClosed};
  std::atomic<const std::function<void(int64_t)>*> body{nullptr};
  std::atomic<uint64_t> count{0};
  std::atomic<uint64_t> unfinished{0};
  std::exception_ptr error;  // under mutex

  void open_run(const std::function<void(int64_t)>& new_body, uint64_t shards) {
    const std::lock_guard lock(mutex);
    const uint64_t run = run_of(ticket.load()) + 1;
    ticket = run << 32 | kClosed;  // no thread can take a shard of the old run with the new count
    body = &new_body;
    count = shards;
    unfinished = shards;
    error = nullptr;
    ticket = run << 32;
  }

  // The exchange succeeds only while the run is open, and its caller waits for the shard: body is alive.
  bool take_shard() {
    uint64_t now = ticket.load();
    while (true) {
      const auto* current = body.load();
      if (shard_of(now) >= count.load()) return false;
      if (!ticket.compare_exchange_weak(now, now + 1)) continue;
      try {
        (*current)(static_cast<int64_t>(shard_of(now)));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
      unfinished.fetch_sub(1);
      return true;
    }
  }

  bool has_new_run(uint64_t seen) const {
    const uint64_t now = ticket.load();
    return run_of(now) != seen && shard_of(now) != kClosed;
  }

  // False when the pool ends.
  bool wait_for_run(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (has_new_run(seen)) return true;
      __builtin_ia32_pause();
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return stop || has_new_run(seen); });
    return !stop;
  }

  void work() {
    for (uint64_t seen = 0; wait_for_run(seen);) {
      seen = run_of(ticket.load());
      while (take_shard()) {
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (int i = 1; i < threads; ++i) impl_->workers.emplace_back([impl = impl_.get()] { impl->work(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::size() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::run(int64_t count, const std::function<void(int64_t)>& body) {
  Impl& p = *impl_;
  if (count <= 1 || p.workers.empty()) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  if (count >= static_cast<int64_t>(kClosed)) throw std::length_error("ThreadPool::run: too many shards");
  p.open_run(body, static_cast<uint64_t>(count));
  p.wake.notify_all();
  while (p.take_shard()) {
  }
  for (int spins = 0; p.unfinished.load() != 0; ++spins) {
    if (spins < kSpins) __builtin_ia32_pause();
    else std::this_thread::yield();
  }
  if (p.error) std::rethrow_exception(p.error);
}

void ThreadPool::run_ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t shards = (count + grain - 1) / grain;
  run(shards, [&](int64_t i) { body(i * grain, std::min(count, (i + 1) * grain)); });
}

}  // namespace retort
