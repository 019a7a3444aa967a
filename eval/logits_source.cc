#include "eval/logits_source.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"

namespace retort {
namespace {

bool is_quantized(const ModelSource& source) {
  const auto tensors = source.tensors();
  return std::any_of(tensors.begin(), tensors.end(), [](const auto& tensor) { return !tensor.scheme.is_dense(); });
}

uint64_t stored_bytes(const ModelSource& source) {
  uint64_t total = 0;
  for (const ModelTensor& tensor : source.tensors()) total += tensor.bytes;
  return total;
}

// The weights are most of it; what is already resident (another model) counts too.
void check_memory(const ModelSource& source, uint64_t bytes, const Context& context) {
  const uint64_t needed = peak_resident_bytes() + bytes;
  if (context.memory_limit == 0 || needed <= context.memory_limit) return;
  fail("eval", source.path().string(),
       "scoring it takes about " + format_bytes(needed) + ", above the limit of " + format_bytes(context.memory_limit),
       "Raise --memory, or evaluate a quantized version");
}

}  // namespace

void LogitsSource::logits(std::span<const int32_t> window, int64_t first_row, std::span<float> out) {
  start(window, first_row)->next(static_cast<int64_t>(window.size()) - first_row, out);
}

std::unique_ptr<LogitsSource> make_source(const ModelSource& source, std::string_view backend, Context& context) {
  if (!backend.empty() && backend != "torch" && backend != "runtime")
    fail_usage("eval", "--backend " + std::string(backend), "not a backend", "Backends are torch and runtime");
  const bool torch = backend.empty() ? !is_quantized(source) : backend == "torch";
  check_memory(source, torch ? static_cast<uint64_t>(source.config().parameters()) * 4 : stored_bytes(source), context);
  return torch ? torch_source(source, context) : runtime_source(source, context);
}

}  // namespace retort
