// What every long operation gets from its caller: threads, progress, limits. Passed down, never global.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/thread_pool.h"

namespace retort {

// Where progress and messages go. Calls come from one thread at a time. The default sink is silent.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  // A task of `total` units begins ("tokens", "layers", "bytes"); tasks do not nest.
  virtual void begin(std::string_view /*task*/, int64_t /*total*/, std::string_view /*unit*/) {}
  // Units that an earlier, interrupted run has done: they do not count for the rate. Right after begin().
  virtual void resume(int64_t /*done*/) {}
  // `done` units so far; `note` is a short text beside the bar ("loss 3.91").
  virtual void update(int64_t /*done*/, std::string_view /*note*/ = {}) {}
  virtual void end() {}
  virtual void message(std::string_view /*text*/) {}
};

struct Context {
  ThreadPool& threads;
  ProgressSink& progress;
  uint64_t memory_limit = 0;   // bytes; 0: none
  uint64_t seed = 0;
  std::string device = "cpu";  // "cpu", "cuda" or "cuda:N"

  // Throws Error(kInterrupted) when the user asked to stop. Called between units of work.
  void check_interrupted() const;
};

// Async-signal-safe; called by the signal handler of cli/.
void request_interrupt();

// Peak resident size of this process in bytes.
uint64_t peak_resident_bytes();

}  // namespace retort
