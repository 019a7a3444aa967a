// The numbers that make the same weights another model: sizes, rotary frequencies, windows, the epsilon of norms.
// Internal to export/.
#pragma once

#include <string>
#include <vector>

#include "core/arch/model_config.h"
#include "core/base/json.h"

namespace retort {

// What one place in an artifact says of one of them.
struct ConfigNumber {
  std::string place;  // "config.json"
  std::string name;   // one of those that numbers_of() gives
  std::vector<double> values;
};

// All of them, as a configuration has them. Frequencies are what angles per position are, scaling included.
std::vector<ConfigNumber> numbers_of(const ModelConfig& config, const std::string& place);
// Less what an artifact of a model with windows cannot say whose program knows none: its context ends with the window.
std::vector<ConfigNumber> numbers_without_windows(std::vector<ConfigNumber> numbers, const ModelConfig& model);
// Those of onnxruntime-genai's configuration.
std::vector<ConfigNumber> numbers_of_genai(const Json& json, const std::string& place);

// A line for each number of `found` that differs from the model's by more than rounding to float32.
std::vector<std::string> number_differences(const std::vector<ConfigNumber>& found, const ModelConfig& model);

}  // namespace retort
