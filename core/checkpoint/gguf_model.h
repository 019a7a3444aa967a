// What the metadata of a GGUF file say of a model, in the terms of Hugging Face.
#pragma once

#include "core/base/json.h"
#include "core/checkpoint/gguf.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

// A config.json as transformers would have written it, for parse_config. `factors`: the content of rope_freqs.weight,
// empty without it. An architecture, a mixture of experts or a rope scaling that is not read is refused by name.
Json config_of_gguf(const GgufHeader& header, const std::vector<double>& factors, std::string_view label);

// The keys "tokenizer.ggml.*", with llama.cpp's defaults for absent ones.
Vocabulary vocabulary_of_gguf(const GgufHeader& header, std::string_view label);

}  // namespace retort
