// The Modelfile with which Ollama takes a GGUF file.
#pragma once

#include <string>

#include "core/checkpoint/model_source.h"

namespace retort {

struct Modelfile {
  std::string text;
  std::string problem;  // why the chat template or a stop is not in it; empty: all that the model has is
};

// `gguf`: the name of the file beside it. Ollama renders templates of Go's text/template, not Jinja: the layouts of
// turns that kLayouts knows are restated, with ChatML's default system prompt where it is a literal. A text of a token
// that a Modelfile cannot quote is left out and reported.
Modelfile modelfile_of(const ModelSource& source, const std::string& gguf);

}  // namespace retort
