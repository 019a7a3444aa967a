// The GGUF container, version 3 (and 2 for reading), little-endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/files.h"

namespace retort {

struct GgufArray;
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string,
                               std::shared_ptr<GgufArray>, uint64_t, int64_t, double>;  // index = GGUF type number
struct GgufArray {
  uint32_t type = 0;  // GGUF type number of the elements; arrays of arrays are refused
  std::variant<std::vector<std::string>, std::vector<double>, std::vector<int64_t>> values;
};

struct GgufTensorInfo {
  std::string name;
  uint32_t type = 0;           // ggml type number
  std::vector<int64_t> shape;  // rows first, as everywhere in Retort (the file has them reversed)
  uint64_t offset = 0, bytes = 0;
  size_t file = 0;  // which of the files of a split model
};

struct GgufHeader {
  std::vector<std::pair<std::string, GgufValue>> metadata;  // in file order
  std::vector<GgufTensorInfo> tensors;                      // offsets from the start of the file
  uint64_t alignment = 32;
  uint64_t behind = 0;  // bytes that follow the last tensor and its padding: of all files of a split model

  const GgufValue* find(std::string_view key) const;
  const GgufTensorInfo* find_tensor(std::string_view name) const;
  // Typed look-ups; absent keys give nothing, wrong types are errors naming the key.
  std::optional<int64_t> integer(std::string_view key) const;  // integers of any width
  std::optional<double> number(std::string_view key) const;    // a float32 0.00001f gives 0.00001
  std::optional<std::string> string(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  const std::vector<std::string>* strings(std::string_view key) const;
  const std::vector<double>* numbers(std::string_view key) const;
  const std::vector<int64_t>* integers(std::string_view key) const;
};

// Parses everything before the tensor data and checks it against the size of the file, so that data() needs no
// check. The fuzz target's entry.
GgufHeader parse_gguf(std::span<const std::byte> file, std::string_view label);

// One file, or all files of a split model (llama.cpp's NAME-00001-of-0000N.gguf): the metadata of the first with the
// tensors of all. What the other files say of the split is checked.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);  // of a split model: its first file
  const GgufHeader& header() const { return header_; }
  std::span<const std::byte> data(const GgufTensorInfo& info) const {
    return files_[info.file]->bytes().subspan(info.offset, info.bytes);
  }
  // Told of every reading of data, so that a command's memory is that of the tensors it holds.
  void count_read(uint64_t bytes) const;

 private:
  void open_siblings(const std::filesystem::path& path, int64_t count);

  std::vector<std::unique_ptr<MappedFile>> files_;
  mutable ReadCount reads_;
  GgufHeader header_;
};

// The GGUF file in a directory that holds one model and no configuration, of a split model the first; else empty.
std::filesystem::path gguf_in_directory(const std::filesystem::path& directory);
// NAME-00001-of-00003.gguf for NAME, 0 and 3; NAME.gguf for a single file.
std::string gguf_file_name(const std::string& name, size_t index, size_t count);

// ggml type numbers and their block geometry; nullptr for a type not known.
struct GgmlType {
  uint32_t number;
  std::string_view name;  // "F32", "Q4_0", ...
  int64_t block_elements, block_bytes;
};
const GgmlType* find_ggml_type(uint32_t number);
const GgmlType* find_ggml_type(std::string_view name);  // in capitals or not

// Families with gguf_interleaved_rope: within each head, GGUF row 2i + s is Hugging Face row s * head_dim / 2 + i.
// order[g] is the Hugging Face row that lies in GGUF row g: what permute_rows takes to make the GGUF matrix.
std::vector<int64_t> interleaved_order(int64_t rows, int64_t head_dim);
// The inverse for one row: where GGUF has the Hugging Face row `row`.
int64_t interleaved_row(int64_t row, int64_t head_dim);

// Metadata and tensor list first (sizes are known before the data), then the data in the same order. The alignment is
// that of "general.alignment" in the metadata, else 32; `header.alignment` must agree.
class GgufWriter {
 public:
  GgufWriter(const std::filesystem::path& path, const GgufHeader& header);  // offsets in `header` are ignored
  ~GgufWriter();
  void append(std::span<const std::byte> bytes);  // next bytes of the current tensor; pads between tensors
  void finish();                                  // throws if any tensor is incomplete

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace retort
