// What a model says of how it came about, for artifacts and model cards.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/checkpoint/model_source.h"

namespace retort {

struct Provenance {
  std::string scheme, method, calibration;  // from the report that `quantize` left; calibration: how much text
  std::string scale_type;                   // likewise; empty: f16
  std::string group_order;                  // in which gptq solved the columns: "none" or "activation"; empty: not told
  std::string tokenizer_digest;             // of the ids of the text that verify compares, of the ids of special
                                            // tokens and of the rules for BOS and EOS; empty: no tokenizer
  std::string template_digest;              // of the chat template; empty: none
  Json report;                              // retort.json beside the weights; null: none

  // What an artifact carries, by name: the texts above that are not empty.
  std::vector<std::pair<std::string, std::string>> entries() const;
};

// An artifact that is a model again says what it carries.
Provenance provenance_of(const ModelSource& source);
// "_name_or_path" of the configuration, when its text is that of a repository (owner/name) and not of a path; else
// empty. What lies on this machine does not count.
std::string base_model_of(const ModelConfig& config);
// Whether a text is "owner/name".
bool is_repository(std::string_view text);
// The same, or a name without an owner: what the model may be called, and no place to look for it.
std::string model_id_of(const ModelConfig& config);

}  // namespace retort
