// ONNX for ONNX Runtime: model.onnx, its weights in model.onnx.data, and the tokenizer's files.
#include "core/base/error.h"
#include "core/base/files.h"
#include "core/pack/dequantizelinear.h"
#include "core/pack/packed_format.h"
#include "export/formats.h"
#include "export/onnx/attention.h"
#include "export/onnx/decoder_graph.h"
#include "export/onnx/genai_config.h"
#include "export/tensors.h"

namespace retort {
namespace {

constexpr const char* kDataFile = "model.onnx.data";
constexpr std::string_view kTransposed = "dequantizelinear";
constexpr uint64_t kAlignment = 64;  // of each tensor in the data file

class OnnxExporter : public ArtifactWriter {
 public:
  OnnxExporter(const ModelSource& source, const ExportOptions& options)
      : source_(source), operators_(parse_operators(options.operators)), accuracy_level_(options.accuracy_level) {}

  std::string refuses(const PlannedTensor& planned, const QuantizedMatrix& matrix) const override {
    return layout_of(planned).refuses(matrix);
  }

  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override {
    directory_ = path;
    data_ = std::make_unique<OutputFile>(path / kDataFile);
    OnnxWeights weights;
    for (const PlannedTensor& planned : plan)
      weights[planned.tensor->name] = planned.dense ? parse_scheme(name_of(*planned.dense)) : planned.tensor->scheme;
    const OnnxWeightNodes nodes(graph_, source_.config(), weights, operators_, accuracy_level_);
    build_onnx_decoder(graph_, source_.config(), nodes, operators_);
    fallbacks_ = fallback_notes(plan);
    for (const std::string& note : fallbacks_)
      notes_.emplace_back("retort.fallback." + std::to_string(notes_.size()), note);
  }

  void write(const PlannedTensor& planned, ThreadPool& threads) override {
    const ModelTensor& tensor = *planned.tensor;
    if (planned.dense) {
      begin_tensor();
      stream_dense(
          source_, tensor, *planned.dense, [&](std::span<const std::byte> bytes) { data_->write(bytes); }, threads);
      return end_tensor(tensor.name, onnx_type(*planned.dense), tensor.shape);
    }
    write_packed(planned, threads);
  }

  void finish() override {
    data_->close();
    graph_.save(directory_ / "model.onnx", notes_);
    write_side_files(artifact_side_files(source_), directory_);
    write_text_file(directory_ / "config.json", artifact_config(source_, fallbacks_).dump(2) + "\n");
    write_text_file(directory_ / "genai_config.json",
                    genai_config(source_, operators_, accuracy_level_).dump(2) + "\n");
  }

 private:
  static OnnxOperators parse_operators(std::string_view name) {
    return name == "standard" ? OnnxOperators::kStandard : OnnxOperators::kContrib;
  }
  // Each part is a tensor of its own, that ends where the next begins.
  void write_packed(const PlannedTensor& planned, ThreadPool& threads) {
    const PackedFormat& format = layout_of(planned);
    const bool transposed = format.name == kTransposed;
    const int64_t rows = planned.tensor->rows();
    const bool whole = transposed && rows % 2 != 0;  // its columns do not end with a byte
    PackedPart part{};
    const auto end = [&] {
      if (!part.name.empty()) end_part(planned, part, transposed);
    };
    const auto begin = [&](const PackedPart& next) {
      end();
      part = {next.name, next.dtype, next.shape, {}};
      begin_tensor();
    };
    stream_packed(source_, *planned.tensor,
                  {.format = format, .multiple = whole ? rows : 32, .row_axis = transposed ? 1 : 0},
                  {begin, [&](std::span<const std::byte> bytes) { data_->write(bytes); }}, threads);
    end();
  }

  void end_part(const PlannedTensor& planned, const PackedPart& part, bool transposed) {
    const ModelTensor& tensor = *planned.tensor;
    const std::string name = tensor.name + "." + std::string(part.name);
    if (transposed && part.dtype == DType::kU8)
      end_tensor(name, type_of_codes(tensor.scheme), transposed_shape(tensor, part.name == "codes"));
    else
      end_tensor(name, onnx_type(part.dtype), part.shape);
    if (planned.rule->role == Role::kEmbedding && part.name == "codes")
      end_tensor(tensor.name + kOnnxRows, OnnxType::kU8, {part.shape[0], part.shape[1] * part.shape[2]});
  }

  const PackedFormat& layout_of(const PlannedTensor& planned) const {
    return packed_format(onnx_layout(operators_, planned.rule->role));
  }
  static OnnxType type_of_codes(const Scheme& scheme) {
    if (scheme.bits <= 4) return scheme.symmetric ? OnnxType::kI4 : OnnxType::kU4;
    return scheme.symmetric ? OnnxType::kI8 : OnnxType::kU8;
  }
  // Of codes, or of zero points.
  static std::vector<int64_t> transposed_shape(const ModelTensor& tensor, bool codes) {
    const int64_t cols = tensor.cols(), block = dequantize_block(tensor.scheme, cols);
    return {codes ? cols : (cols + block - 1) / block, tensor.rows()};
  }

  void begin_tensor() {
    data_->pad_to(kAlignment);
    begin_ = data_->position();
  }
  void end_tensor(const std::string& name, OnnxType type, const std::vector<int64_t>& shape) {
    graph_.external(name, type, shape, kDataFile, begin_, data_->position() - begin_);
  }

  const ModelSource& source_;
  OnnxOperators operators_;
  int64_t accuracy_level_;
  std::filesystem::path directory_;
  std::unique_ptr<OutputFile> data_;
  uint64_t begin_ = 0;
  OnnxGraph graph_;
  std::vector<std::string> fallbacks_;
  std::vector<std::pair<std::string, std::string>> notes_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_onnx_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<OnnxExporter>(source, options);
}

}  // namespace retort
