// Settings of rotary embeddings in the words that transformers knows.
#pragma once

#include "core/arch/model_config.h"

namespace retort {

// The rope_parameters of a config.json for a model whose frequencies are divided by factors (RopeScaling::kFactors): of
// the type "llama3" with the bounds of all Llama 3 models, 1 and 4, where those give the same frequencies to 1e-6,
// which is several roundings to float32. null: there are none.
Json llama3_settings(const ModelConfig& config);

}  // namespace retort
