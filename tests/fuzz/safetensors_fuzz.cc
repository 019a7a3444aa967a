// Safetensors headers: any bytes give tensors that lie within the file, or an Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/base/error.h"
#include "core/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    retort::SortedJson metadata;
    for (const auto& info :
         retort::parse_safetensors_header(std::as_bytes(std::span(data, size)), size, "fuzz", &metadata))
      if (info.offset > size || info.bytes > size - info.offset) std::abort();
  } catch (const retort::Error&) {
  }
  return 0;
}
