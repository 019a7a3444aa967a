// What the name of a model says of it, and what its GGUF file is called: as llama.cpp's converter has both, and as the
// naming convention of ggml (docs/gguf.md) reads a file's name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace retort {

// The parts of "owner/Llama-3.2-1B-Instruct-v2"; what it does not say is empty.
struct ModelName {
  std::string full;      // "Llama-3.2-1B-Instruct-v2"
  std::string base;      // "Llama-3.2"
  std::string size;      // "1B"
  std::string finetune;  // "Instruct"
  std::string version;   // "v2"
};
// `id`: "owner/name" or a name. A number that is far from the model's `parameters` is a length of context and no size.
ModelName parse_model_name(std::string_view id, int64_t parameters);

// "Llama 3.2 1B Instruct v2".
std::string title_of(std::string_view name);
// "145K", "5.8M", "1.2B".
std::string size_label(int64_t parameters);

// "Llama-3-2-1B-Instruct-v2-Q4_K_M": BaseName-SizeLabel-FineTune-Version-Encoding. What the convention does not allow in
// a part becomes a dash, a size is counted where the name has none, and v1.0 is the version of a name without one.
std::string gguf_stem(const ModelName& name, int64_t parameters, std::string_view encoding);

}  // namespace retort
