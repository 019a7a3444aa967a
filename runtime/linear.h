// Matrices applied to the same activations, with the quantization of those activations.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/base/thread_pool.h"
#include "runtime/kernels/kernel.h"
#include "runtime/packed_matrix.h"

namespace retort {

// Calls body(i) for i in [0, count) on all threads, without the allocation that std::function may need.
template <typename Body>
void parallel(ThreadPool& threads, int64_t count, const Body& body) {
  threads.run(count, std::cref(body));
}

struct Linear {
  PackedMatrix weights;
  std::vector<float> bias;  // empty: none
  // The activations in the form that `weights` takes differ from those of the Linear before it.
  bool new_inputs = true;
};

// Scratch for the activations of up to `max_tokens` tokens, allocated once.
class InputBuffer {
 public:
  InputBuffer() = default;
  InputBuffer(int64_t max_tokens, int64_t max_cols);  // max_cols: the largest packed_cols() of an integer matrix
  // Activations [tokens][cols] as `weights` takes them: the values themselves for dense weights, otherwise
  // quantized copies that stay valid until the next call.
  Inputs prepare(const PackedMatrix& weights, const float* values, int64_t tokens, const Kernel& kernel,
                 ThreadPool& threads);

 private:
  void quantize_token(const PackedMatrix& weights, const float* values, int64_t token, const Kernel& kernel);

  int64_t max_cols_ = 0;
  AlignedBuffer values_, codes_, scales_, sums_;
};

// Linears with one input: query, key and value; gate and up; or a single one.
class Projection {
 public:
  Projection() = default;
  explicit Projection(std::vector<Linear> linears);
  // outputs[i][token * rows + row] of linear i.
  void apply(const float* values, int64_t tokens, std::span<float* const> outputs, InputBuffer& buffer,
             const Kernel& kernel, ThreadPool& threads) const;
  std::span<const Linear> linears() const { return linears_; }

 private:
  std::vector<Linear> linears_;
};

}  // namespace retort
