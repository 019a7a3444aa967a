// A tokenizer made of the components of a tokenizer.json: what tokenizer_from_json and, for byte-level GGUF
// vocabularies, tokenizer_from_vocabulary build.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/components.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

struct Pipeline {
  AddedTokens added;                       // finished
  std::unique_ptr<Normalizer> normalizer;  // may be null, like the next and the decoder
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  Bpe model;
  PostProcessor post_processor;
  std::unique_ptr<Decoder> decoder;
  Vocabulary vocabulary;
};

std::unique_ptr<Tokenizer> make_pipeline_tokenizer(Pipeline pipeline, std::string_view label);

}  // namespace retort
