// Writing a model as other programs load it. One driver plans, checks and streams; a format is one ArtifactWriter
// and one row in exporter.cc.
// Goals: what a format can hold exactly is held exactly; what it cannot is refused before any byte is written.
// Non-goal: choosing codes. The integers are the model's own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/context.h"
#include "core/checkpoint/model_source.h"

namespace retort {

struct ExportOptions {
  std::string format;
  std::optional<DType> type;           // every tensor dense in this type (f32, f16, bf16); none: the model's own
  std::optional<DType> fallback = {};  // a tensor that the format cannot hold is written in this instead of refused
  std::string operators = "contrib";   // onnx: "contrib" (ONNX Runtime's own where they are faster) or "standard"
  uint64_t max_shard_bytes = 0;        // files of weights with at most so many bytes of tensors; 0: as the format does
  std::string base_model = {};         // "owner/name" of the model that this one was made from; empty: not told
  int64_t accuracy_level = 0;          // onnx: what MatMulNBits may do with activations; 0: nothing, 4: int8
};

// How one tensor will be written.
struct PlannedTensor {
  const ModelTensor* tensor;
  const TensorRule* rule;
  int64_t layer;               // -1: not per layer
  std::optional<DType> dense;  // none: the model's integers in the format's layout
  std::string fallback;        // why it is dense although the model has integers; empty: as asked
};

// One artifact being written. Made before the plan, so that the constructor can refuse a whole model.
class ArtifactWriter {
 public:
  virtual ~ArtifactWriter() = default;
  // Empty when the format holds this matrix exactly; otherwise the reason, as a sentence. Without zero points only the
  // first row's codes and scales are there: no format asks for more than the shape, the scheme and the groups then.
  virtual std::string refuses(const PlannedTensor& tensor, const QuantizedMatrix& matrix) const = 0;
  // `path` is the file to write, or a directory that exists. `plan` outlives the writer.
  virtual void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) = 0;
  // Each of the plan once, in its order. Where the layout lets a matrix be cut into runs of rows, all `threads` convert
  // them; they are written behind, in the order of the rows. What could not be written may be said by the next call.
  virtual void write(const PlannedTensor& tensor, ThreadPool& threads) = 0;
  virtual void finish() = 0;
  // What the model says and the artifact cannot, as sentences.
  virtual std::vector<std::string> unsaid() const { return {}; }
};

struct ExportFormat {
  std::string_view name;
  bool directory = false;       // PATH is always a directory, else a file or a directory that exists
  bool integers = false;        // holds codes and scales; else quantized tensors become f32, which is exact
  bool takes_type = false;      // has kinds for --type; else it is for integers, and a model without any is refused
  bool vectors_in_f32 = false;  // norms and biases are F32 whatever the type
  bool writes_behind = false;   // with several threads a matrix is still being written while the next is packed
  bool windows = false;         // its programs know sliding windows; else the artifact's context ends with the window
  bool json_tokenizer = false;  // its programs read no tokenizer.model: see json_tokenizer.h
  // `source` outlives the writer.
  std::unique_ptr<ArtifactWriter> (*make)(const ModelSource& source, const ExportOptions& options);
};

std::span<const ExportFormat> export_formats();
// A usage Error names the nearest valid format.
const ExportFormat& export_format(std::string_view name);

struct ExportSummary {
  int64_t tensors = 0, quantized = 0;                          // written in all, and of them as integers
  std::vector<std::pair<std::string, std::string>> fallbacks;  // tensor, reason
  std::vector<std::string> notes = {};                         // what is said otherwise than in the model, or not
};
// How an artifact's context is shorter than the model's; empty: it is not.
std::string context_note(const ExportFormat& format, const ModelConfig& config);

// Writes to `output` (staged by the caller; for a directory format it exists).
ExportSummary export_model(const ModelSource& source, const std::filesystem::path& output, const ExportOptions& options,
                           Context& context);

}  // namespace retort
