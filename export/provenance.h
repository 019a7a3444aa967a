// What a model says of how it came about, for artifacts and model cards.
#pragma once

#include <string>

#include "core/checkpoint/model_source.h"

namespace retort {

struct Provenance {
  std::string scheme, method, calibration;  // from the report that `quantize` left; calibration: how much text
  std::string tokenizer_digest;             // of the ids of the text that verify compares; empty: no tokenizer
  std::string template_digest;              // of the chat template; empty: none
  Json report;                              // retort.json beside the weights; null: none
};

Provenance provenance_of(const ModelSource& source);
// "_name_or_path" of the configuration, when it names a repository; else empty.
std::string base_model_of(const ModelConfig& config);

}  // namespace retort
