#include "core/base/error.h"
#include "core/checkpoint/sources.h"

namespace retort {

std::unique_ptr<ModelSource> open_gguf(const std::filesystem::path& path) {
  fail("checkpoint", path.string(), "GGUF files are not read yet");
}

}  // namespace retort
