// Torch work over fixed shards: each shard runs single-threaded Torch on a thread of the pool.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "core/base/context.h"

namespace retort {

// Before any Torch work, on each thread that does some (again costs nothing): one intra-op thread, bit-reproducible
// MKL code paths. Loading weights and run_shards do it themselves.
void prepare_torch();
// The device that "cpu", "cuda" or "cuda:N" names; loads libtorch_cuda.so on first use of a GPU. Throws when
// there is none.
at::Device parse_device(const std::string& name);
// body(i) for i in [0, count): on a CPU from all threads of context.threads, on a GPU one after the other.
// Shards must not share mutable state; combine their results in the order of i afterwards. Torch's gradient mode is
// per thread and on: a body that needs no gradients begins with its own at::NoGradGuard.
void run_shards(const Context& context, int64_t count, const std::function<void(int64_t)>& body);

}  // namespace retort
