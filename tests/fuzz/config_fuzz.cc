// config.json: any bytes give a configuration whose tensors can be counted, or an Error.
#include <cstdint>
#include <string_view>

#include "core/arch/family.h"
#include "core/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const retort::ModelConfig config = retort::parse_config(retort::parse_json(text, "fuzz"), "fuzz");
    if (config.parameters() <= 0) __builtin_trap();
    if (config.head_dim < 4096) retort::rope_frequencies(config);
  } catch (const retort::Error&) {
  }
  return 0;
}
