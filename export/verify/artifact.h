// What the readers of artifacts give to the comparison. Internal to export/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/arch/joined_family.h"
#include "core/base/dtype.h"
#include "core/checkpoint/chat_templates.h"
#include "core/checkpoint/model_source.h"
#include "core/tokenizer/tokenizer.h"
#include "export/verify/config_numbers.h"
#include "export/verify/plain_logits.h"

namespace retort {

// One tensor as an artifact holds it, rows and columns in the order of the checkpoint. Either integers:
// w[r][c] = scale[r * groups + column_group[c]] * levels[r * cols + c] - minimum[the same], or dense bytes.
struct ArtifactTensor {
  int64_t rows = 0, cols = 1, groups = 0;
  std::vector<int16_t> levels;  // code minus zero point, or what the code book says
  std::vector<float> scales;    // of whatever type
  std::vector<float> minima;    // empty: none
  std::vector<int32_t> column_group;
  std::optional<DType> dense;
  std::vector<std::byte> bytes;
};

class ArtifactReader {
 public:
  virtual ~ArtifactReader() = default;
  virtual std::string_view format() const = 0;
  // A tensor that is missing, or stored otherwise than its shape needs, is an Error that names it.
  virtual ArtifactTensor read(const ExpectedTensor& expected) const = 0;
  virtual std::span<const SideFile> side_files() const { return {}; }
  virtual std::unique_ptr<Tokenizer> tokenizer() const = 0;
  virtual ChatTemplates chat_templates() const = 0;
  // The configuration numbers that the artifact holds, wherever it does.
  virtual std::vector<ConfigNumber> numbers() const = 0;
  // Tokens that end a generation, where they are not said in side files.
  virtual std::optional<std::vector<int64_t>> end_tokens() const { return {}; }
  // A line for what else its JSON files say that is other than in the model, or than the tensors need.
  virtual std::vector<std::string> setting_differences(const ModelSource&) const { return {}; }
  // The type to which loaders convert all numbers that are stored in floating point; none: each keeps its own.
  virtual std::optional<DType> loaded_type() const { return std::nullopt; }
  // [ids, vocabulary], of one sequence from its beginning, with the numbers that it has and as they are loaded.
  virtual std::vector<float> logits(std::span<const int32_t> ids, Context& context) const = 0;
  // Bytes of the files of weights that belong to no tensor.
  virtual int64_t unclaimed_bytes() const { return 0; }
  // What it says of itself: the texts of a JSON object by name, and the list "fallbacks" of what is dense in it though
  // the model has integers.
  virtual Json self() const = 0;
};

std::unique_ptr<ArtifactReader> open_gguf_artifact(const std::filesystem::path& path, const ModelConfig& config);
std::unique_ptr<ArtifactReader> open_onnx_artifact(const std::filesystem::path& directory, const ModelConfig& config);
std::unique_ptr<ArtifactReader> open_gptq_artifact(const std::filesystem::path& directory);
std::unique_ptr<ArtifactReader> open_awq_artifact(const std::filesystem::path& directory);
std::unique_ptr<ArtifactReader> open_compressed_tensors_artifact(const std::filesystem::path& directory);
std::unique_ptr<ArtifactReader> open_mlx_artifact(const std::filesystem::path& directory, const ModelConfig& config);
std::unique_ptr<ArtifactReader> open_hf_artifact(const std::filesystem::path& directory);

// Every export has a matrix for each projection. `family`: null, or one that joins some.
void refuse_joined(const JoinedFamily* family, const std::filesystem::path& path);
[[noreturn]] void fail_artifact(const ExpectedTensor& expected, const std::string& reason);
int64_t rows_of(const ExpectedTensor& expected);
int64_t cols_of(const ExpectedTensor& expected);
// Dense bytes, when there are as many as the shape needs.
ArtifactTensor dense_artifact(const ExpectedTensor& expected, DType type, std::span<const std::byte> bytes);
// Its rows [first, first + count) as float32.
void dequantize_rows(const ArtifactTensor& tensor, int64_t first, int64_t count, std::span<float> out);
// Each tensor is read when it is asked for. `artifact` outlives what is made of it.
TensorRows rows_of(const ArtifactReader& artifact);

// Those of `config.json` in a directory.
std::vector<ConfigNumber> numbers_of_directory(const std::filesystem::path& directory);
Json self_of_directory(const std::filesystem::path& directory);

}  // namespace retort
