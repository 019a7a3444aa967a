// tokenizer.json for programs that read no tokenizer.model.
#pragma once

#include <string>
#include <vector>

#include "core/checkpoint/model_source.h"

namespace retort {

struct JsonTokenizer {
  std::vector<SideFile> files;  // what lies beside the model's own files, which stay as they are
  std::string note;             // which ids of the model's tokenizer.model no tokenizer.json gives; empty: it gives all
};

// Nothing, where the model has a tokenizer.json or no tokenizer.
JsonTokenizer json_tokenizer_of(const ModelSource& source);

}  // namespace retort
