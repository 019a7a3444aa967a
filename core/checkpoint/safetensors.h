// The safetensors container: 8 bytes of header length, a JSON header, tensor data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/files.h"
#include "core/base/json.h"
#include "core/checkpoint/safetensors_size.h"

namespace retort {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t offset = 0, bytes = 0;  // in the file
};

// One file, mapped. Every offset, size and type is checked when it is opened.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  std::span<const TensorInfo> tensors() const { return tensors_; }  // in the order of their data
  std::span<const std::byte> data(const TensorInfo& info) const {
    return file_.bytes().subspan(info.offset, info.bytes);
  }
  const SortedJson& metadata() const { return metadata_; }
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  SortedJson metadata_;
  std::vector<TensorInfo> tensors_;
};

// Parses and checks a header: `file_size` is the size of the whole file whose first bytes `head` holds.
// The fuzz target's entry.
std::vector<TensorInfo> parse_safetensors_header(std::span<const std::byte> head, uint64_t file_size,
                                                 std::string_view label, SortedJson* metadata);

// Streams tensors into model.safetensors, or into shards of at most `max_shard_bytes` (a larger tensor gets one of
// its own) with model.safetensors.index.json. Files carry temporary names until finish(), which writes the index
// last; without finish() the destructor removes them.
// The header stands before the data but is known only after it: a shard is buffered while it is small (16 MiB), and
// above that gets 1 MiB of blanks, which the format allows, in which the header is written at the end.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path directory, uint64_t max_shard_bytes = kShardBytes);
  ~SafetensorsWriter();
  void add(const std::string& name, DType dtype, const std::vector<int64_t>& shape, std::span<const std::byte> bytes);
  // The same, for a tensor that comes in pieces: begin, then append until shape is filled.
  void begin(const std::string& name, DType dtype, const std::vector<int64_t>& shape);
  void append(std::span<const std::byte> bytes);
  void drop();  // the tensor begun last, complete or not; another must follow
  void finish();
  uint64_t data_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace retort
