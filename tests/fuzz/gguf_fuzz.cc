// GGUF files: any bytes give tensors that lie within the file, a configuration and a vocabulary, or an Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/arch/model_config.h"
#include "core/base/error.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/gguf_model.h"

namespace {

void ignore_errors(void (*body)(const retort::GgufHeader&), const retort::GgufHeader& header) {
  try {
    body(header);
  } catch (const retort::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const retort::GgufHeader header = retort::parse_gguf(std::as_bytes(std::span(data, size)), "fuzz");
    for (const auto& info : header.tensors)
      if (info.offset > size || info.bytes > size - info.offset) std::abort();
    ignore_errors([](const auto& h) { retort::parse_config(retort::config_of_gguf(h, {}, "fuzz"), "fuzz"); }, header);
    ignore_errors([](const auto& h) { retort::vocabulary_of_gguf(h, "fuzz"); }, header);
  } catch (const retort::Error&) {
  }
  return 0;
}
