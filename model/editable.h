// Which models can be changed and written back as a Hugging Face directory.
#pragma once

#include <string_view>

#include "core/checkpoint/model_source.h"

namespace retort {

// Refuses, as an Error of `operation`, a model that is quantized or does not come from a Hugging Face directory
// (whose tokenizer and settings the result takes over).
void require_editable(const ModelSource& source, std::string_view operation);

}  // namespace retort
