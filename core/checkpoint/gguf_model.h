// What the metadata of a GGUF file say of a model, in the terms of Hugging Face.
#pragma once

#include "core/base/json.h"
#include "core/checkpoint/gguf.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

// The contents of rope_freqs.weight, rope_factors_short.weight and rope_factors_long.weight; empty without them.
struct GgufRopeFactors {
  std::vector<double> plain, short_factors, long_factors;
};

// A config.json as transformers would have written it, for parse_config. An architecture, a mixture of experts or a
// rope scaling that is not read is refused by name.
Json config_of_gguf(const GgufHeader& header, const GgufRopeFactors& factors, std::string_view label);

// The keys "tokenizer.ggml.*", with llama.cpp's defaults for absent ones.
Vocabulary vocabulary_of_gguf(const GgufHeader& header, std::string_view label);

}  // namespace retort
