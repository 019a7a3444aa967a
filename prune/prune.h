// Structured pruning: whole layers and FFN channels go, so that the result is an ordinary, smaller checkpoint of the
// same family. Goals: uniform shapes that every program loads. Non-goals: sparse masks, training.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/context.h"
#include "core/base/json.h"
#include "core/checkpoint/model_source.h"

namespace retort {

struct PruneOptions {
  int64_t layers = 0, ffn = 0;                 // sizes to keep; 0: as they are. At least one is given
  int64_t ffn_multiple = 128;                  // `ffn` must be a multiple: kernels and quantization groups want one
  std::string calibration;                     // path of a text (read_corpus)
  int64_t samples = 128, sequence_length = 0;  // calibration.h
};

struct PruneSummary {
  std::vector<double> layer_scores;  // of every layer of the source: mean over tokens of 1 - cos(input, output)
  std::vector<int64_t> kept_layers;  // ascending
  std::vector<std::vector<int64_t>> kept_channels;  // per kept layer, ascending; empty: all FFN channels stay
  int64_t ffn_before = 0, ffn_after = 0;
  int64_t calibration_tokens = 0;
  int64_t parameters_before = 0, parameters_after = 0;
  double seconds = 0;
};

// Writes the pruned Hugging Face directory, with retort.json, into `directory` (staged by the caller). The scores of
// layers and of channels come from one pass over the source as it is (importance.h); layers that stay, channels that
// stay, keep their order and their stored type. Errors: sizes out of range, a model that is quantized or not a
// Hugging Face directory, a calibration text that is too short.
PruneSummary prune_model(const ModelSource& source, const std::filesystem::path& directory, const PruneOptions& options,
                         Context& context);
Json to_json(const PruneSummary& summary);

}  // namespace retort
