// A plain Hugging Face directory: dense safetensors in one type, or in the model's own.
#include "core/base/files.h"
#include "core/checkpoint/safetensors.h"
#include "export/formats.h"
#include "export/tensors.h"

namespace retort {
namespace {

class HfExporter : public ArtifactWriter {
 public:
  HfExporter(const ModelSource& source, const ExportOptions& options)
      : source_(source), max_shard_bytes_(options.max_shard_bytes) {}

  std::string refuses(const PlannedTensor&, const QuantizedMatrix&) const override { return {}; }

  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override {
    directory_ = path;
    weights_ = safetensors_writer(path, max_shard_bytes_);
    config_ = artifact_config(source_, fallback_notes(plan));
    // Loaders convert to the type that the configuration names: it must be the widest that is stored.
    DType widest = *plan.front().dense;
    for (const PlannedTensor& planned : plan)
      if (*planned.dense != widest) widest = DType::kF32;
    config_.erase("torch_dtype");
    config_["dtype"] = torch_name(widest);
  }

  void write(const PlannedTensor& planned, ThreadPool& threads) override {
    weights_->begin(planned.tensor->name, *planned.dense, planned.tensor->shape);
    stream_dense(
        source_, *planned.tensor, *planned.dense, [&](std::span<const std::byte> bytes) { weights_->append(bytes); },
        threads);
  }

  void finish() override {
    weights_->finish();
    write_side_files(artifact_side_files(source_), directory_);
    write_text_file(directory_ / "config.json", config_.dump(2) + "\n");
  }

 private:
  const ModelSource& source_;
  const uint64_t max_shard_bytes_;
  std::filesystem::path directory_;
  std::unique_ptr<SafetensorsWriter> weights_;
  Json config_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_hf_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<HfExporter>(source, options);
}

}  // namespace retort
