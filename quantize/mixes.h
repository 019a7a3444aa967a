// The GGUF mixes: which block type each tensor of a model gets, by its role and its layer.
// Source: llama.cpp, src/llama-quant.cpp, llama_tensor_get_type. A file of the same name has the same size but where it
// follows rules that are left out here: with an importance matrix the down matrices of the first eighth of the layers
// are q4_1 in q4_0, q5_1 in q5_0, and no wider than the others in iq4_nl and iq4_xs; the value matrices of models that
// it takes for Llama of 70B are q5_k where they would be q3_k or q4_k.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/arch/family.h"
#include "core/pack/scheme.h"

namespace retort {

struct Mix;

// nullptr: the name is not that of a mix. q2_k, q6_k, iq4_nl and iq4_xs are both a block type and a mix: in --scheme
// the mix is meant, in --keep the type.
const Mix* find_mix(std::string_view name);
std::string_view base_of(const Mix& mix);  // the type of most of its tensors
std::vector<std::string> mix_names();

// The type of a matrix. `rule` and `layer` as in expected_tensors.
Scheme scheme_in_mix(const Mix& mix, const ModelConfig& config, const TensorRule& rule, int64_t layer);
// The type of the head, or of the embedding where it is the head too, in a GGUF of `base`: q6_k, or base if that is
// q8_0.
Scheme head_scheme(const Scheme& base, const ModelConfig& config);

}  // namespace retort
