// One interface to a model that can be scored; Torch and the built-in backend stand behind it, so that the
// original and the compressed model are measured by the same code.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

// The logits of one window, handed out in pieces: with a large vocabulary all of them would be gigabytes.
class WindowLogits {
 public:
  virtual ~WindowLogits() = default;
  // Those after each of the next `rows` tokens: out[rows * vocab_size].
  virtual void next(int64_t rows, std::span<float> out) = 0;
};

class LogitsSource {
 public:
  virtual ~LogitsSource() = default;
  virtual int64_t vocab_size() const = 0;
  // Begins with `window`, independent of all others; its rows come from `first_row` on. Source and window outlive
  // the result.
  virtual std::unique_ptr<WindowLogits> start(std::span<const int32_t> window, int64_t first_row) = 0;
  // True: windows can be worked on by several threads, each at its own. False: one at a time, for which the
  // source itself uses the threads of the context.
  virtual bool concurrent() const = 0;
  virtual std::string_view backend() const = 0;  // "torch" or "runtime"

  // Logits after each of window[first_row ..]: out[(window.size() - first_row) * vocab_size].
  void logits(std::span<const int32_t> window, int64_t first_row, std::span<float> out);
};

// In float32, weights dequantized. In a program without LibTorch: the built-in backend in float math.
// The source keeps no reference to `source`; `context` outlives it.
std::unique_ptr<LogitsSource> torch_source(const ModelSource& source, Context& context);
std::unique_ptr<LogitsSource> runtime_source(const ModelSource& source, Context& context);
// `backend`: "torch", "runtime" or "" (float checkpoints in torch, quantized ones in the built-in backend).
// What would not fit into context.memory_limit is refused before it is loaded.
std::unique_ptr<LogitsSource> make_source(const ModelSource& source, std::string_view backend, Context& context);

}  // namespace retort
