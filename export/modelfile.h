// The Modelfile with which Ollama takes a GGUF file.
#pragma once

#include <string>

#include "core/checkpoint/model_source.h"

namespace retort {

struct Modelfile {
  std::string text;
  std::string problem;  // why the chat template is not in it; empty: it is, or the model has none
};

// `gguf`: the name of the file beside it. Ollama renders templates of Go's text/template, not Jinja: the layouts of
// turns that kLayouts knows are restated, a default system prompt is not.
Modelfile modelfile_of(const ModelSource& source, const std::string& gguf);

}  // namespace retort
