#include "core/checkpoint/model_source.h"

#include <fstream>

#include "core/base/error.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/sources.h"

namespace fs = std::filesystem;

namespace retort {
int64_t ModelTensor::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

const ModelTensor* ModelSource::find(std::string_view name) const {
  for (const ModelTensor& tensor : tensors())
    if (tensor.name == name) return &tensor;
  return nullptr;
}

const ModelTensor& ModelSource::at(std::string_view name) const {
  if (const ModelTensor* tensor = find(name)) return *tensor;
  fail("checkpoint", path().string(), "there is no tensor '" + std::string(name) + "'");
}

std::vector<float> ModelSource::read_f32(const ModelTensor& tensor) const {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  read_f32(tensor, 0, tensor.rows(), values);
  return values;
}

const SideFile* ModelSource::side_file(std::string_view name) const {
  for (const SideFile& file : side_files())
    if (file.name == name) return &file;
  return nullptr;
}

bool is_gguf(const fs::path& path) {
  char magic[4] = {};
  if (fs::is_regular_file(path)) std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF";
}

void check_rows(const ModelTensor& tensor, int64_t first, int64_t count, size_t given, size_t needed) {
  if (first < 0 || count < 0 || count > tensor.rows() - first || given != needed)
    fail("checkpoint", tensor.name,
         "rows " + std::to_string(first) + " + " + std::to_string(count) +
             " or the size of the buffer do not fit the tensor");
}

std::unique_ptr<ModelSource> open_model(const fs::path& path) {
  if (!fs::exists(path)) fail("checkpoint", path.string(), "there is no such file or directory");
  if (const fs::path inside = gguf_in_directory(path); !inside.empty()) return open_gguf(inside);
  if (fs::is_directory(path)) return open_directory(path);
  if (is_gguf(path)) return open_gguf(path);
  fail("checkpoint", path.string(), "not a model",
       "Give a Hugging Face directory, a native quantized directory or a GGUF file");
}

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& path) {
  if (!fs::exists(path)) fail("tokenizer", path.string(), "there is no such file or directory");
  if (const fs::path inside = gguf_in_directory(path); !inside.empty()) return tokenizer_of_gguf(inside);
  if (fs::is_directory(path)) return tokenizer_from_side_files(read_side_files(path), path.string());
  if (is_gguf(path)) return tokenizer_of_gguf(path);
  fail("tokenizer", path.string(), "not a model", "Give a directory with a tokenizer or a GGUF file");
}

}  // namespace retort
