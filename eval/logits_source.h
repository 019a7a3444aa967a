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

class LogitsSource {
 public:
  virtual ~LogitsSource() = default;
  virtual int64_t vocab_size() const = 0;
  // Logits after each of window[first_row ..], windows independent of each other:
  // out[(window.size() - first_row) * vocab_size].
  virtual void logits(std::span<const int32_t> window, int64_t first_row, std::span<float> out) = 0;
  virtual std::string_view backend() const = 0;  // "torch" or "runtime"
};

// In float32, weights dequantized. In a program without LibTorch: the built-in backend in float math.
std::unique_ptr<LogitsSource> torch_source(const ModelSource& source, Context& context);
std::unique_ptr<LogitsSource> runtime_source(const ModelSource& source, Context& context);
// `backend`: "torch", "runtime" or "" (float checkpoints in torch, quantized ones in the built-in backend).
std::unique_ptr<LogitsSource> make_source(const ModelSource& source, std::string_view backend, Context& context);

}  // namespace retort
