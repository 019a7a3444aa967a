#include "core/base/context.h"

#include <sys/resource.h>

#include <atomic>

#include "core/base/error.h"

namespace retort {
namespace {
std::atomic<bool> g_interrupted{false};  // the one process-wide state: signals have no other way in
}

void request_interrupt() { g_interrupted.store(true, std::memory_order_relaxed); }

void Context::check_interrupted() const {
  if (g_interrupted.load(std::memory_order_relaxed))
    throw Error(ErrorKind::kInterrupted, "[interrupt] command: stopped on request. Run the same command to continue");
}

uint64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace retort
