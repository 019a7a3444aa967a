// The built-in backend: a Torch-free decoder for native quantized directories, GGUF files and (in float) any
// checkpoint. Weights are packed for the kernel when loaded; activations are quantized to int8 per group.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

struct EngineOptions {
  std::string kernel = {};  // force a kernel by name; empty: the best one this CPU has
  bool float_math = false;  // dequantize to float32 at load and compute in float32: the reference
};

class Engine;

// One sequence: its keys, values and position.
class Session {
 public:
  virtual ~Session() = default;
  virtual int64_t position() const = 0;
  virtual void reset(int64_t position = 0) = 0;  // forget the tokens from `position` on
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelConfig& config() const = 0;
  virtual std::unique_ptr<Session> new_session(int64_t max_tokens) const = 0;
  // Appends `tokens` to the session. `logits` receives the rows of the last `rows` of them:
  // rows * vocab_size floats, rows <= tokens.size().
  virtual void forward(Session& session, std::span<const int32_t> tokens, int64_t rows, std::span<float> logits) = 0;
  virtual std::string_view kernel() const = 0;
  virtual uint64_t weight_bytes() const = 0;  // as packed in memory
};

// `context` must outlive the engine.
std::unique_ptr<Engine> load_engine(const ModelSource& source, const EngineOptions& options, Context& context);

}  // namespace retort
