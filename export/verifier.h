// Re-opens an artifact with reading code that shares nothing with the writers, and compares it element by element
// with the model that it was made from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

struct VerifyResult {
  std::string format;
  int64_t tensors_compared = 0;
  int64_t tensors_as_integers = 0;       // of them, by codes and scales
  int64_t integers_as_values = 0;        // dense in the artifact and integers in the model
  int64_t codes_different = 0;           // elements whose code minus zero point is another integer
  int64_t scales_different = 0;          // groups of the artifact whose scale is another f16 number
  int64_t values_different = 0;          // elements of dense tensors that are not the nearest of their type
  int64_t values_rounded = 0;            // elements that are the nearest of a type which does not have the number
  int64_t tensors_rounded = 0;           // with such elements
  int64_t integers_rounded = 0;          // of them, integers in the model
  int64_t fallbacks_recorded = 0;        // matrices of which the artifact says that its format could not hold them
  int64_t numbers_different = 0;         // of the configuration: sizes, rotary frequencies, windows, epsilon
  int64_t settings_different = 0;        // token ids, names, lists of modules, a type that rounds when it is loaded
  int64_t bytes_unclaimed = 0;           // of the files of weights: they belong to no tensor
  bool tokenizer_equal = false;          // same ids for a hard text, and the same bytes where it is stored as files
  bool template_equal = false;           // the chat template, byte for byte
  std::vector<std::string> differences;  // one line for each tensor that differs
  std::vector<std::string> rounded;      // one line for each tensor with rounded values, most first
  std::vector<std::string> notes;        // what the format cannot say, and its programs do in their own way

  // Nothing is other than what the type of each tensor makes of the model's.
  bool faithful() const {
    return codes_different == 0 && scales_different == 0 && values_different == 0 && numbers_different == 0 &&
           settings_different == 0 && bytes_unclaimed == 0 && tokenizer_equal && template_equal;
  }
  bool equal() const { return faithful() && values_rounded == 0; }
  // Matrices of integers were rounded because the format could not hold them, and not to a type that was asked for: the
  // artifact says so, or others are integers in it.
  bool fell_back() const { return integers_rounded > 0 && (tensors_as_integers > 0 || fallbacks_recorded > 0); }
};

// `artifact`: a GGUF file, or a directory that `export` wrote. What cannot be read is an Error.
VerifyResult verify_artifact(const std::filesystem::path& artifact, const ModelSource& model, Context& context);

// The logits that it gives to one sequence from its beginning, [ids, vocabulary], in float32: by its graph, or by its
// weights and configuration as the comparison reads them.
std::vector<float> artifact_logits(const std::filesystem::path& artifact, const ModelConfig& model,
                                   std::span<const int32_t> ids, Context& context);

}  // namespace retort
