// Writing a GGUF model as one file or, in a directory, as several that llama.cpp takes for one.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/gguf.h"

namespace retort {

class GgufShards {
 public:
  // The tensors of `header` have their sizes. With `max_bytes` each file has at most so many bytes of tensors, or one
  // tensor; 0: one file. `path` is the file, or a directory that gets files named after `name`.
  GgufShards(std::filesystem::path path, std::string name, const GgufHeader& header, uint64_t max_bytes);
  void append(std::span<const std::byte> bytes);  // the tensors' data in order, in pieces that end with each tensor
  void finish();

 private:
  void next();

  std::filesystem::path path_;
  std::string name_;
  std::vector<GgufHeader> headers_;
  size_t current_ = 0;
  uint64_t left_ = 0;  // bytes that the current file still gets
  std::unique_ptr<GgufWriter> writer_;
};

}  // namespace retort
