// tokenizer.model files: any bytes give a tokenizer that encodes and decodes, or an Error.
#include <cstdint>
#include <numeric>

#include "core/base/error.h"
#include "core/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer = retort::tokenizer_from_sentencepiece(std::as_bytes(std::span(data, size)), "", "fuzz");
    const auto ids = tokenizer->encode(
        "  The quick  brown fox <s>x</s> e\xCC\x81 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x91\x8D\t\n\xFF");
    tokenizer->decode(ids);
    std::vector<int32_t> all(static_cast<size_t>(tokenizer->size()));
    std::iota(all.begin(), all.end(), 0);
    tokenizer->decode(all, true);
  } catch (const retort::Error&) {
  }
  return 0;
}
