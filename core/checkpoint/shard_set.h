// The safetensors files of a directory as one set of tensors.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/checkpoint/safetensors.h"

namespace retort {

struct StoredTensor {
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;

  std::span<const std::byte> bytes() const { return file->data(*info); }
};

// model.safetensors or, without it, the shards that model.safetensors.index.json names.
class ShardSet {
 public:
  explicit ShardSet(const std::filesystem::path& directory);

  const StoredTensor* find(std::string_view name) const;  // nullptr: not there
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  // Told of every reading, so that a command's memory is that of the tensors it holds.
  void count_read(uint64_t bytes) const;

 private:
  void open(const std::filesystem::path& path);
  void check_index(const std::filesystem::path& index) const;

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  mutable ReadCount reads_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
};

// The names of the weight files that the directory is said to hold, in order: one, or those of the index.
// Refused: no weights at all, an index that names a file outside the directory.
std::vector<std::string> weight_file_names(const std::filesystem::path& directory);

}  // namespace retort
