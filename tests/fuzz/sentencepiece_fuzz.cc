// tokenizer.model files: any bytes give a tokenizer that encodes and decodes, and files that make one too, or an Error.
#include <cstdint>
#include <numeric>

#include "core/base/error.h"
#include "core/tokenizer/sentencepiece.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_files.h"

namespace {

void exercise_files(const retort::SentencePieceSpec& spec) {
  if (!retort::refuses_tokenizer_files(spec).empty()) return;
  const retort::TokenizerFiles files = retort::tokenizer_files_of(spec);
  const auto made = retort::tokenizer_from_json(files.tokenizer, files.config, "fuzz");
  made->decode(made->encode(" ab a  b<s>\xC3\xA9 ba\n", true), true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer = retort::tokenizer_from_sentencepiece(std::as_bytes(std::span(data, size)), "", "fuzz");
    const auto ids = tokenizer->encode(
        "  The quick  brown fox <s>x</s> e\xCC\x81 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x91\x8D\t\n\xFF");
    tokenizer->decode(ids);
    std::vector<int32_t> all(static_cast<size_t>(tokenizer->size()));
    std::iota(all.begin(), all.end(), 0);
    tokenizer->decode(all, true);
    exercise_files(retort::sentencepiece_spec(std::as_bytes(std::span(data, size)), "", "fuzz"));
  } catch (const retort::Error&) {
  }
  return 0;
}
