// Dense tensors on their way from a model to an artifact.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/checkpoint/model_source.h"
#include "core/checkpoint/safetensors.h"
#include "core/pack/packed_runs.h"
#include "export/exporter.h"

namespace retort {

// What the streams below hold of a tensor at most: of runs of rows, and of parts that are joined. `as_integers`: by
// stream_packed.
uint64_t streaming_bytes(const ModelTensor& tensor, bool as_integers, const ThreadPool& threads);

// Throws, naming the smallest limit that would do, when `operation` needs more than context.memory_limit. `needed`
// comes on top of what the process has.
void check_memory_limit(std::string_view operation, const ModelSource& source, uint64_t needed, const Context& context);

// The tensor's rows as `type`, in runs. `sink` gets the runs in their order, each from the thread that made it, never
// two together. With `order`, each block of order.size() rows comes in that order; the tensor has whole blocks.
void stream_dense(const ModelSource& source, const ModelTensor& tensor, DType type, const ByteSink& sink,
                  ThreadPool& threads, std::span<const int64_t> order = {});
// Throws, with the remedy, when a finite value of the tensor is infinite as f16.
void check_f16_range(const ModelSource& source, const ModelTensor& tensor, const std::string& remedy,
                     ThreadPool& threads);

// The same numbers in another integer scheme with at least as many codes and with groups that divide the old ones:
// scales repeated, and for a symmetric scheme zero points moved to the middle. The caller knows that they fit.
QuantizedMatrix regrouped(const QuantizedMatrix& matrix, const Scheme& scheme);

// How a tensor becomes parts a few MiB at a time.
struct PackedRuns {
  const PackedFormat& format;
  int64_t multiple = 32;  // of rows in a run, but for the last; or all rows
  int row_axis = 0;       // as pack_runs has it
  // What is packed in place of a run of rows; empty: they themselves. Called by all threads.
  std::function<QuantizedMatrix(QuantizedMatrix rows)> restate = {};
};
// As pack_runs, for a tensor of the model.
void stream_packed(const ModelSource& source, const ModelTensor& tensor, const PackedRuns& runs, const PartSink& sink,
                   ThreadPool& threads);
// The safetensors of an artifact in the directory `path`, in shards as asked.
std::unique_ptr<SafetensorsWriter> safetensors_writer(const std::filesystem::path& path, uint64_t max_shard_bytes);
// "bfloat16" and the like, as config.json has them.
std::string_view torch_name(DType type);

// "name: reason" of every tensor that fell back: what an artifact says of itself.
std::vector<std::string> fallback_notes(std::span<const PlannedTensor> plan);
// Tokens that a program which attends to all of them, without the model's sliding window, computes alike.
int64_t exact_context(const ModelConfig& config);
// The files beside the weights, byte for byte; of tokenizer_config.json without the places where its files lay.
std::vector<SideFile> artifact_side_files(const ModelSource& source);
// config.json as the model came with it, less what described its own quantization and where it lay, with factors of
// rotary frequencies as transformers knows them, and with what the artifact says of itself under "retort": its
// provenance (provenance.h) and `fallbacks`, where there are any.
Json artifact_config(const ModelSource& source, const std::vector<std::string>& fallbacks);

}  // namespace retort
