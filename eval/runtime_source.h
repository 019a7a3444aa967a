// The adapter of the built-in backend, with the engine's options: float math stands in for LibTorch.
#pragma once

#include <memory>

#include "eval/logits_source.h"
#include "runtime/engine.h"

namespace retort {

std::unique_ptr<LogitsSource> runtime_source(const ModelSource& source, const EngineOptions& options, Context& context);

}  // namespace retort
