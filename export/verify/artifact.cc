#include "export/verify/artifact.h"

#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/rounding.h"
#include "export/verify/safetensors_artifact.h"

namespace retort {
namespace {

void dequantize_levels(const ArtifactTensor& tensor, int64_t first, int64_t count, std::span<float> out) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < tensor.cols; ++c) {
      const auto group = static_cast<size_t>((first + i) * tensor.groups + tensor.column_group[static_cast<size_t>(c)]);
      const int16_t level = tensor.levels[static_cast<size_t>((first + i) * tensor.cols + c)];
      const float minimum = tensor.minima.empty() ? 0 : tensor.minima[group];
      out[static_cast<size_t>(i * tensor.cols + c)] = tensor.scales[group] * level - minimum;
    }
}

}  // namespace

void refuse_joined(const JoinedFamily* family, const std::filesystem::path& path) {
  if (family != nullptr)
    fail("verify", path.string(),
         "a model of the type '" + std::string(family->model_type) + "', whose matrices are joined, is no export",
         "Export it, and verify that");
}

void fail_artifact(const ExpectedTensor& expected, const std::string& reason) {
  fail("verify", expected.name, reason, "The artifact is damaged, or was made from another model");
}

int64_t rows_of(const ExpectedTensor& expected) { return expected.shape.front(); }
int64_t cols_of(const ExpectedTensor& expected) { return expected.shape.size() < 2 ? 1 : expected.shape[1]; }

ArtifactTensor dense_artifact(const ExpectedTensor& expected, DType type, std::span<const std::byte> bytes) {
  ArtifactTensor tensor;
  tensor.rows = rows_of(expected);
  tensor.cols = cols_of(expected);
  tensor.dense = type;
  if (bytes.size() != static_cast<size_t>(tensor.rows * tensor.cols) * size_of(type))
    fail_artifact(expected, "it has another size than in the model");
  tensor.bytes.assign(bytes.begin(), bytes.end());
  return tensor;
}

void dequantize_rows(const ArtifactTensor& tensor, int64_t first, int64_t count, std::span<float> out) {
  if (!tensor.dense) return dequantize_levels(tensor, first, count, out);
  const size_t size = size_of(*tensor.dense);
  const std::byte* stored = tensor.bytes.data() + static_cast<size_t>(first * tensor.cols) * size;
  for (size_t i = 0; i < static_cast<size_t>(count * tensor.cols); ++i)
    out[i] = number_at(*tensor.dense, stored + i * size);
}

TensorRows rows_of(const ArtifactReader& artifact) {
  return [&artifact](const ExpectedTensor& expected) -> RowReader {
    const auto tensor = std::make_shared<const ArtifactTensor>(artifact.read(expected));
    return
        [tensor](int64_t first, int64_t count, std::span<float> out) { dequantize_rows(*tensor, first, count, out); };
  };
}

std::vector<ConfigNumber> numbers_of_directory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return numbers_of(parse_config(read_json_file(path), path.string()), "config.json");
}

Json self_of_directory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return json_value(read_json_file(path), "retort", Json::object(), path.string());
}

std::unique_ptr<ArtifactReader> open_hf_artifact(const std::filesystem::path& directory) {
  return std::make_unique<HfArtifact>(directory);
}

}  // namespace retort
