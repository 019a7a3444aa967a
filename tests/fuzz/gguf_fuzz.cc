// GGUF files: any bytes give tensors that lie within the file, a configuration, a vocabulary and the files that it
// makes, or an Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/arch/model_config.h"
#include "core/base/error.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/gguf_model.h"
#include "core/tokenizer/tokenizer_files.h"

namespace {

constexpr const char* kText = "ab a  b<s>\xC3\xA9 ba\n";

void ignore_errors(void (*body)(const retort::GgufHeader&), const retort::GgufHeader& header) {
  try {
    body(header);
  } catch (const retort::Error&) {
  }
}

// What is not refused becomes files, and what our tokenizer takes, these give too.
void exercise(const retort::Vocabulary& vocabulary) {
  if (!retort::refuses_tokenizer_files(vocabulary).empty()) return;
  const retort::TokenizerFiles files = retort::tokenizer_files_of(vocabulary);
  const auto direct = retort::tokenizer_from_vocabulary(vocabulary, "fuzz");
  const auto made = retort::tokenizer_from_json(files.tokenizer, files.config, "fuzz");
  made->decode(made->encode(kText, true), true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const retort::GgufHeader header = retort::parse_gguf(std::as_bytes(std::span(data, size)), "fuzz");
    for (const auto& info : header.tensors)
      if (info.offset > size || info.bytes > size - info.offset) std::abort();
    ignore_errors([](const auto& h) { retort::parse_config(retort::config_of_gguf(h, {}, "fuzz"), "fuzz"); }, header);
    ignore_errors([](const auto& h) { exercise(retort::vocabulary_of_gguf(h, "fuzz")); }, header);
  } catch (const retort::Error&) {
  }
  return 0;
}
