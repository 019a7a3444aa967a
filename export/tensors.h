// Dense tensors on their way from a model to an artifact.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/model_source.h"
#include "export/exporter.h"

namespace retort {

using ByteSink = std::function<void(std::span<const std::byte>)>;

// The tensor's rows as `type`, a few MiB at a time.
void stream_dense(const ModelSource& source, const ModelTensor& tensor, DType type, const ByteSink& sink);
// The whole tensor as `type`.
std::vector<std::byte> read_dense(const ModelSource& source, const ModelTensor& tensor, DType type);
// Throws when a finite value of the tensor is infinite as f16.
void check_f16_range(const ModelSource& source, const ModelTensor& tensor);

// The same numbers in another integer scheme with at least as many codes and with groups that divide the old ones:
// scales repeated, and for a symmetric scheme zero points moved to the middle. The caller knows that they fit.
QuantizedMatrix regrouped(const QuantizedMatrix& matrix, const Scheme& scheme);

// "name: reason" of every tensor that fell back: what an artifact says of itself.
std::vector<std::string> fallback_notes(std::span<const PlannedTensor> plan);
// Tokens that a program which attends to all of them, without the model's sliding window, computes alike.
int64_t exact_context(const ModelConfig& config);
// config.json as the model came with it, less what described its own quantization.
Json plain_config(const ModelConfig& config);
// Tokenizer, chat template and generation settings, byte for byte.
void write_side_files(const ModelSource& source, const std::filesystem::path& directory);

}  // namespace retort
