// Stands in for torch_source.cc in a program without LibTorch.
#include "eval/runtime_source.h"

namespace retort {

std::unique_ptr<LogitsSource> torch_source(const ModelSource& source, Context& context) {
  return runtime_source(source, EngineOptions{.float_math = true}, context);
}

}  // namespace retort
