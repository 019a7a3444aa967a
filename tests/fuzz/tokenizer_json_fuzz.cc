// tokenizer.json files: any bytes give a tokenizer that encodes, decodes and describes itself, or an Error.
#include <cstdint>

#include "core/base/error.h"
#include "core/tokenizer/tokenizer.h"

namespace {

constexpr std::string_view kText =
    "The quick  brown fox's 123 e\xCC\x81 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD <s>a</s> \n\n\t "
    "\xFF\xC3 [x]";

void exercise(const retort::Tokenizer& tokenizer) {
  for (const bool special : {false, true}) {
    const auto ids = tokenizer.encode(kText, special);
    tokenizer.decode(ids, special);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer = retort::tokenizer_from_json({reinterpret_cast<const char*>(data), size}, "", "fuzz");
    exercise(*tokenizer);
    exercise(*retort::tokenizer_from_vocabulary(tokenizer->vocabulary(), "fuzz"));
  } catch (const retort::Error&) {
  }
  return 0;
}
