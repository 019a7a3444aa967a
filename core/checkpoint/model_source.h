// A model to read, whatever it is stored in: a Hugging Face directory, a native quantized directory, a GGUF file.
// Tensors appear under their Hugging Face names and in Hugging Face row order; the container does not show.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/arch/family.h"
#include "core/arch/model_config.h"
#include "core/base/json.h"
#include "core/pack/packed_runs.h"
#include "core/pack/quantized_matrix.h"
#include "core/tokenizer/tokenizer.h"

namespace retort {

struct ModelTensor {
  std::string name;
  std::vector<int64_t> shape;
  Scheme scheme;                   // how it is read; dense: its type
  uint64_t bytes = 0;              // as stored
  std::string stored = {};         // the stored type, where it is another than the scheme: "f64", "q6_k"; else empty
  int64_t outliers = 0;            // columns of a quantized matrix that are kept in 16 bits
  std::string integers_lost = {};  // why the file's integers are read as f32; empty: they are not, or it has none

  bool stores_integers() const { return !scheme.is_dense() || !integers_lost.empty(); }
  int64_t rows() const { return shape.front(); }
  int64_t cols() const { return shape.size() < 2 ? 1 : shape[1]; }
  int64_t elements() const;
};

// A small file that travels with the weights, byte for byte: tokenizer.json, chat_template.jinja, ...
struct SideFile {
  std::string name;
  std::string bytes;
};

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const std::filesystem::path& path() const = 0;  // for error messages and reports
  virtual std::string_view container() const = 0;         // "huggingface", "native", "gguf"
  virtual const ModelConfig& config() const = 0;
  // Checked against expected_tensors(config()): all there, right shapes. Extra tensors are listed as problems.
  virtual std::span<const ModelTensor> tensors() const = 0;
  virtual std::span<const std::string> problems() const = 0;

  // Rows [first, first + count) decoded to float32; a vector has rows of one element. Thread-safe.
  virtual void read_f32(const ModelTensor&, int64_t first, int64_t count, std::span<float> out) const = 0;
  // Rows of a dense tensor in its stored type. Thread-safe.
  virtual void read_dense(const ModelTensor&, int64_t first, int64_t count, std::span<std::byte> out) const = 0;
  // The integers of rows [first, first + count) of a quantized tensor, a matrix of their own. Thread-safe.
  virtual QuantizedMatrix read_quantized_rows(const ModelTensor&, int64_t first, int64_t count) const = 0;

  virtual std::span<const SideFile> side_files() const = 0;  // of a GGUF file: made of its metadata
  virtual std::string chat_template() const = 0;             // empty: none
  virtual std::unique_ptr<Tokenizer> tokenizer() const = 0;  // throws when there is none

  const ModelTensor* find(std::string_view name) const;   // nullptr: not there
  const ModelTensor& at(std::string_view name) const;     // throws naming the model and the tensor
  std::vector<float> read_f32(const ModelTensor&) const;  // the whole tensor
  QuantizedMatrix read_quantized(const ModelTensor& tensor) const {
    return read_quantized_rows(tensor, 0, tensor.rows());
  }
  const SideFile* side_file(std::string_view name) const;
};

// Opens whatever lies at `path`, also a directory that holds nothing but a GGUF model; what cannot be read is refused
// with the reason.
std::unique_ptr<ModelSource> open_model(const std::filesystem::path& path);
// The tokenizer alone: weights may be absent, and the family need not be one that is read.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path);

// What is known of a quantized tensor beyond its bytes: kept in the artifact, printed by reports.
struct TensorReport {
  std::string name;
  std::string scheme, method;
  double relative_error = 0;  // ||W - Wq||_F / ||W||_F
  std::string fallback;       // empty: as asked
  double seconds = 0;
  Json details;  // method-specific: damping, fallback of the solver, ...
};

// Writes a Hugging Face directory (all tensors dense) or a native quantized one (config.json then carries
// "quantization_config": {"quant_method": "retort", ...}). Tensors are written as they come.
class ModelWriter {
 public:
  // `directory` exists (usually StagedOutput::staging()). Side files (usually ModelSource::side_files()) are
  // written byte for byte.
  ModelWriter(std::filesystem::path directory, std::span<const SideFile> side_files);
  ~ModelWriter();
  void add_dense(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
                 std::span<const std::byte> bytes);
  // The same, for a tensor that comes in pieces: begin, then append until the shape is filled.
  void begin_dense(const std::string& name, DType dtype, const std::vector<int64_t>& shape);
  void append(std::span<const std::byte> bytes);
  void add_f32(const std::string& name, DType dtype, const std::vector<int64_t>& shape, std::span<const float> values);
  void add_quantized(const std::string& name, const QuantizedMatrix& matrix);
  // The same, for a matrix that is made a run of rows at a time. False when a run could not be: nothing was added.
  bool add_quantized(const std::string& name, const Scheme& scheme, const MatrixRuns& runs, ThreadPool& threads);
  // `config_json` becomes config.json (its quantization_config is added here); `report` becomes
  // retort.json beside it (omitted when null). Call once, last.
  void finish(const Json& config_json, const Json& report);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Tokenizer, chat template and generation settings that lie in a Hugging Face directory.
std::vector<SideFile> read_side_files(const std::filesystem::path& directory);
// The same files, byte for byte, in a directory that exists.
void write_side_files(std::span<const SideFile> files, const std::filesystem::path& directory);
const SideFile* find_side_file(std::span<const SideFile> files, std::string_view name);  // nullptr: not there
bool has_tokenizer(std::span<const SideFile> files);  // one that the next function finds
// From tokenizer.json or, without it, tokenizer.model, and tokenizer_config.json; neither of them is an Error.
std::unique_ptr<Tokenizer> tokenizer_from_side_files(std::span<const SideFile> files, const std::string& label);
// From chat_template.jinja or, in this order, chat_template.json and tokenizer_config.json; empty: none.
std::string chat_template_of_side_files(std::span<const SideFile> files, const std::string& label);

}  // namespace retort
