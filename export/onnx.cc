// ONNX for ONNX Runtime: model.onnx, its weights in model.onnx.data, and the tokenizer's files.
#include "core/base/error.h"
#include "core/base/files.h"
#include "core/pack/packed_format.h"
#include "export/formats.h"
#include "export/onnx/decoder_graph.h"
#include "export/tensors.h"

namespace retort {
namespace {

constexpr const char* kDataFile = "model.onnx.data";
constexpr uint64_t kAlignment = 64;  // of each tensor in the data file

class OnnxExporter : public ArtifactWriter {
 public:
  OnnxExporter(const ModelSource& source, const ExportOptions& options)
      : source_(source), accuracy_level_(options.accuracy_level) {
    if (accuracy_level_ < 0 || accuracy_level_ > 4)
      fail_usage("options", "--accuracy-level", "it is " + std::to_string(accuracy_level_) + ", outside 0 to 4");
  }

  std::string refuses(const PlannedTensor&, const QuantizedMatrix& matrix) const override {
    return packed_format("matmulnbits").refuses(matrix);
  }

  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override {
    directory_ = path;
    data_ = std::make_unique<OutputFile>(path / kDataFile);
    OnnxWeights weights;
    for (const PlannedTensor& planned : plan)
      weights[planned.tensor->name] = planned.dense ? parse_scheme(name_of(*planned.dense)) : planned.tensor->scheme;
    build_onnx_decoder(graph_, source_.config(), weights, accuracy_level_);
    for (const std::string& note : fallback_notes(plan))
      notes_.emplace_back("retort.fallback." + std::to_string(notes_.size()), note);
  }

  void write(const PlannedTensor& planned) override {
    const ModelTensor& tensor = *planned.tensor;
    if (planned.dense) {
      begin_tensor();
      stream_dense(source_, tensor, *planned.dense, [&](std::span<const std::byte> bytes) { data_->write(bytes); });
      return end_tensor(tensor.name, *planned.dense, tensor.shape);
    }
    for (const PackedPart& part : packed_format("matmulnbits").pack(source_.read_quantized(tensor))) {
      begin_tensor();
      data_->write(part.bytes);
      end_tensor(tensor.name + "." + std::string(part.name), part.dtype, part.shape);
    }
  }

  void finish() override {
    data_->close();
    graph_.save(directory_ / "model.onnx", notes_);
    write_side_files(source_, directory_);
    write_text_file(directory_ / "config.json", plain_config(source_.config()).dump(2) + "\n");
  }

 private:
  void begin_tensor() {
    data_->pad_to(kAlignment);
    begin_ = data_->position();
  }
  void end_tensor(const std::string& name, DType type, const std::vector<int64_t>& shape) {
    graph_.external(name, type, shape, kDataFile, begin_, data_->position() - begin_);
  }

  const ModelSource& source_;
  int64_t accuracy_level_;
  std::filesystem::path directory_;
  std::unique_ptr<OutputFile> data_;
  uint64_t begin_ = 0;
  OnnxGraph graph_;
  std::vector<std::pair<std::string, std::string>> notes_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_onnx_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<OnnxExporter>(source, options);
}

}  // namespace retort
