#include "core/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace retort {
namespace {

constexpr int kSpins = 4000;  // about 20 microseconds: decode hands out work many times per token

}  // namespace

struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> epoch{0};
  std::atomic<bool> stop{false};

  const std::function<void(int64_t)>* body = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<int> running{0};
  std::exception_ptr error;

  void take_shards() {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      try {
        (*body)(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
  }

  void wait_for_work(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (epoch.load(std::memory_order_acquire) != seen || stop) return;
      __builtin_ia32_pause();
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return epoch.load() != seen || stop; });
  }

  void work() {
    for (uint64_t seen = 0;;) {
      wait_for_work(seen);
      if (stop) return;
      seen = epoch.load(std::memory_order_acquire);
      take_shards();
      running.fetch_sub(1, std::memory_order_release);
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
  p.body = &body;
  p.count = count;
  p.next = 0;
  p.error = nullptr;
  p.running = static_cast<int>(p.workers.size());
  {
    const std::lock_guard lock(p.mutex);
    p.epoch.fetch_add(1, std::memory_order_release);
  }
  p.wake.notify_all();
  p.take_shards();
  for (int spins = 0; p.running.load(std::memory_order_acquire) != 0; ++spins) {
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
