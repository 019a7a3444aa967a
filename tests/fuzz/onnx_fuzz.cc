// ONNX models as verify reads them: any bytes give a list of weights or an Error.
#include <cstdint>
#include <span>

#include "core/base/error.h"
#include "export/verify/onnx_wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    retort::parse_onnx_parts(std::as_bytes(std::span(data, size)), "fuzz");
  } catch (const retort::Error&) {
  }
  return 0;
}
