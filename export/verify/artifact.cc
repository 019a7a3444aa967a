#include "export/verify/artifact.h"

#include "core/base/error.h"
#include "core/base/json.h"
#include "export/verify/safetensors_artifact.h"

namespace retort {

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
