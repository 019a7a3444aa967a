#include "model/shards.h"

#include <ATen/Parallel.h>

#include <cstdlib>

namespace retort {
namespace {

// Both are read once, at the first use. MKL otherwise chooses its code path by the alignment of its operands; huge
// pages for large tensors save the system most of its page faults.
bool set_environment() {
  return setenv("MKL_CBWR", "AUTO", /*replace=*/0) == 0 && setenv("THP_MEM_ALLOC_ENABLE", "1", /*replace=*/0) == 0;
}

}  // namespace

void prepare_torch() {
  [[maybe_unused]] static const bool process_done = set_environment();
  // OpenMP keeps its number of threads per thread.
  thread_local bool thread_done = false;
  if (thread_done) return;
  at::set_num_threads(1);
  thread_done = true;
}

void run_shards(const Context& context, int64_t count, const std::function<void(int64_t)>& body) {
  const auto shard = [&](int64_t i) {
    prepare_torch();
    body(i);
  };
  if (context.device == "cpu") return context.threads.run(count, shard);
  for (int64_t i = 0; i < count; ++i) shard(i);
}

}  // namespace retort
