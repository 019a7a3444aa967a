#include "core/checkpoint/shard_set.h"

#include <algorithm>

#include "core/base/error.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// Tensor name -> file name, both as the index has them; file names are plain names of files beside the index.
std::vector<std::pair<std::string, std::string>> read_weight_map(const fs::path& path) {
  const SortedJson index = parse_sorted_json(read_text_file(path), path.string());
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object())
    fail("checkpoint", path.string(), "there is no object 'weight_map'");
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    const bool plain = !name.empty() && name != "." && name != ".." && name.find_first_of("/\\") == std::string::npos &&
                       name.find('\0') == std::string::npos;
    if (!plain)
      fail("checkpoint", path.string(),
           "the file of the tensor '" + tensor + "' is not the name of a file in this directory: " + file.dump());
    entries.emplace_back(tensor, name);
  }
  return entries;
}

[[noreturn]] void no_weights(const fs::path& directory) {
  if (fs::exists(directory / "pytorch_model.bin") || fs::exists(directory / "pytorch_model.bin.index.json"))
    fail("checkpoint", directory.string(), "the weights are pickled (pytorch_model.bin), which is not read",
         "Save the model with safe_serialization=True");
  if (fs::exists(directory / "model.onnx"))
    fail("checkpoint", directory.string(), "it is an ONNX model, which `retort verify` alone reads",
         "Use the model that it was exported from");
  fail("checkpoint", directory.string(), "there is neither a model.safetensors nor a model.safetensors.index.json");
}

}  // namespace

std::vector<std::string> weight_file_names(const fs::path& directory) {
  if (fs::exists(directory / kSingle)) return {kSingle};
  if (!fs::exists(directory / kIndex)) no_weights(directory);
  std::vector<std::string> names;
  for (const auto& [tensor, file] : read_weight_map(directory / kIndex)) names.push_back(file);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

ShardSet::ShardSet(const fs::path& directory) {
  const std::vector<std::string> names = weight_file_names(directory);
  const bool single = fs::exists(directory / kSingle);
  for (const std::string& name : names) {
    if (!fs::exists(directory / name))
      fail("checkpoint", (directory / kIndex).string(), "it names the file '" + name + "', which does not exist",
           "Fetch the missing file");
    open(directory / name);
  }
  if (!single) check_index(directory / kIndex);
}

void ShardSet::open(const fs::path& path) {
  const auto& file = files_.emplace_back(std::make_unique<SafetensorsFile>(path));
  for (const TensorInfo& info : file->tensors()) {
    const auto [at, added] = by_name_.emplace(info.name, tensors_.size());
    if (!added)
      fail("checkpoint", path.string(),
           "the tensor '" + info.name + "' is also in " + tensors_[at->second].file->file().path().filename().string());
    tensors_.push_back({file.get(), &info});
  }
}

void ShardSet::count_read(uint64_t bytes) const {
  if (!reads_.add(bytes)) return;
  for (const auto& file : files_) file->file().release();
}

void ShardSet::check_index(const fs::path& path) const {
  for (const auto& [tensor, file] : read_weight_map(path)) {
    const StoredTensor* stored = find(tensor);
    if (stored == nullptr || stored->file->file().path().filename() != file)
      fail("checkpoint", path.string(),
           "the tensor '" + tensor + "' is not in the file '" + file + "' as the index says");
  }
}

const StoredTensor* ShardSet::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

}  // namespace retort
