// What the JSON files of an artifact say beside the numbers of config_numbers.h, where loaders act on it: token ids,
// names of inputs, which modules are quantized and how. Each function gives a line for each difference.
// Internal to export/verify.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "core/checkpoint/model_source.h"

namespace retort {

// Of config.json.
std::vector<std::string> config_differences(const Json& found, const ModelSource& model);
// Keys that quantization_config in config.json and another place both have: programs read one or the other.
std::vector<std::string> quantization_differences(const Json& config, const Json& other, const std::string& place);
// What the settings say of a key in `place`, which must be this.
std::vector<std::string> setting_differences(const Json& settings, const char* key, const Json& right,
                                             const std::string& place);
// The modules that a list exempts from quantization, and those that are dense. Not judged where the list has regular
// expressions ("re:").
std::vector<std::string> module_differences(const std::set<std::string>& listed, const std::set<std::string>& dense,
                                            const std::string& place);
// Of the list of matrices that fell back, "name: reason" each: one that is listed is dense, and where any is listed, so
// is each that was rounded. `dense`: names of all tensors that are; `rounded`: of those that are integers in the model.
std::vector<std::string> fallback_differences(const std::vector<std::string>& listed,
                                              const std::set<std::string>& dense, const std::set<std::string>& rounded);
// Of onnxruntime-genai's configuration, for a graph whose names are those of transformers' own exports.
std::vector<std::string> genai_differences(const Json& found, const ModelSource& model, bool shares_cache);

// The texts of a list; what is no text is left out.
std::set<std::string> texts_of(const Json& settings, const char* key);
void append(std::vector<std::string>& lines, const std::vector<std::string>& more);

}  // namespace retort
