// What can be said of a model, whether or not it can be opened.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/checkpoint/model_source.h"

namespace retort {

struct InspectedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string type;  // scheme or stored type: "bf16", "int4-g128-sym", "q6_k"
  uint64_t bytes = 0;
};

struct Inspection {
  std::string container;               // "huggingface", "native", "gguf"
  std::string family;                  // model_type, also of a family that is not read
  std::optional<ModelConfig> config;   // where it could be read
  std::unique_ptr<ModelSource> model;  // nullptr: open_model refuses it, and `problems` say why
  std::vector<InspectedTensor> tensors;
  Json quantization;                  // config.json's quantization_config, null without one
  std::vector<std::string> problems;  // everything that was found, not only the first thing
};

// Throws only when nothing can be said: no such path, not a model, a GGUF file whose header is damaged.
Inspection inspect_model(const std::filesystem::path& path);

}  // namespace retort
