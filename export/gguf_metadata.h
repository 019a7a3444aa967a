// What a GGUF file says beside its tensors: sizes, rope, vocabulary, chat template. Nothing of the machine or the day.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/gguf.h"
#include "core/checkpoint/model_source.h"

namespace retort {

// All metadata but the file type. A model that llama.cpp cannot run as it is meant is refused; one with a sliding
// window, which llama.cpp does not have for these architectures, gets a context that is no longer than the window.
// `id`: "owner/name" or the name of the model, as far as it is known (provenance.h); else empty.
GgufHeader gguf_metadata(const ModelSource& source, const std::string& id);
// What the tokens do with blanks beside them that llama.cpp does not; empty: nothing.
std::string unsaid_strips(const Vocabulary& vocabulary);
// What the model says and a GGUF file has no key for, as sentences.
std::vector<std::string> gguf_unsaid(const ModelSource& source);
// How many weights of the layers' matrices have each type: "q4_k", "f16", ...
using GgufLayerTypes = std::map<std::string, int64_t>;
// `fallbacks`: "tensor: reason" of what is not as asked.
void add_gguf_file_type(GgufHeader& header, const GgufLayerTypes& types, std::span<const std::string> fallbacks);
// What the file is called where a program chooses, after the family where no name is known: model_name.h.
std::string gguf_model_name(const ModelSource& source, const std::string& id, const GgufLayerTypes& types);
// Tensors of [head_dim / 2] by name, of what llama.cpp divides the unscaled frequencies by: for llama3 scaling and
// longrope.
using GgufFactors = std::pair<std::string, std::vector<float>>;
std::vector<GgufFactors> gguf_rope_factors(const ModelConfig& config);

}  // namespace retort
