// Checkpoints in the layout of Hugging Face whose linear layers lie in several tensors under the name of the module:
// what the writers of gptq, awq, compressed-tensors and mlx have in common.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/checkpoint/safetensors.h"
#include "core/pack/packed_format.h"
#include "export/exporter.h"

namespace retort {

// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string module_name(const PlannedTensor& planned);

// A dense model is an Error.
void require_quantized(const ModelSource& source);

// The scheme of a file that has one width and one group size: the width that most weights of layers have, or
// `file_bits` where the format knows no other, the smallest group of those weights, and zero points if any of them, or
// any weight of the file's width, has some: only codes of fewer bits have room to move their zero points to the middle.
// A dense model is an Error.
Scheme uniform_scheme(const ModelSource& source, std::optional<int> file_bits = {});
// Why a matrix cannot be restated in `uniform` with the same numbers, or `layout` cannot hold that; empty: it can.
std::string refuses_uniform(const PlannedTensor& planned, const QuantizedMatrix& matrix, const Scheme& uniform,
                            const PackedFormat& layout);
// The matrix in `uniform`; the caller knows that it fits.
QuantizedMatrix in_uniform(QuantizedMatrix matrix, const Scheme& uniform);

class ModuleCheckpoint : public ArtifactWriter {
 public:
  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override;
  void write(const PlannedTensor& planned, ThreadPool& threads) override;
  void finish() override;

 protected:
  // `row_axis`: of two-dimensional parts of the layout, the one along which the rows of the matrix lie.
  ModuleCheckpoint(const ModelSource& source, const ExportOptions& options, const PackedFormat& layout, int row_axis)
      : source_(source), max_shard_bytes_(options.max_shard_bytes), layout_(layout), row_axis_(row_axis) {}
  // A run of rows as the layout is to hold it. Called by several threads.
  virtual QuantizedMatrix restated(QuantizedMatrix rows) { return rows; }
  // Told of each tensor that holds a part of a matrix.
  virtual void stored(const PackedPart&) {}
  // Called when all tensors are written: adds to config.json, and writes other files.
  virtual void describe(Json& config) = 0;

  const ModelSource& source() const { return source_; }
  const PackedFormat& layout() const { return layout_; }
  const std::filesystem::path& directory() const { return directory_; }
  // Of the linear weights of layers.
  const std::vector<std::string>& dense_modules() const { return dense_modules_; }
  const std::vector<std::string>& quantized_modules() const { return quantized_modules_; }
  const std::vector<std::string>& notes() const { return notes_; }  // fallback_notes

 private:
  // While the next matrix is packed, where there are several threads. `sink` uses nothing but what this class owns.
  void write_behind(const PartSink& sink, std::vector<PackedPart> parts, const ThreadPool& threads);
  void wait_for_writing();  // and throws what failed there

  const ModelSource& source_;
  const uint64_t max_shard_bytes_;
  const PackedFormat& layout_;
  const int row_axis_;
  std::filesystem::path directory_;
  std::unique_ptr<SafetensorsWriter> weights_;
  std::future<void> writing_;  // of the joined parts of the matrix before this one; ends before weights_
  std::vector<std::string> dense_modules_, quantized_modules_, notes_;
};

}  // namespace retort
