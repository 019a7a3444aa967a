#include "export/gguf_shards.h"

#include <utility>

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr size_t kU16 = 2, kI32 = 5;  // numbers of GGUF's value types

uint64_t data_bytes(const GgufHeader& header) {
  uint64_t total = 0;
  for (const GgufTensorInfo& info : header.tensors) total += info.bytes;
  return total;
}

// The first file has all metadata, the others only the keys of the split.
std::vector<GgufHeader> split(const GgufHeader& header, uint64_t max_bytes) {
  std::vector<GgufHeader> parts(1);
  parts[0].metadata = header.metadata;
  uint64_t bytes = 0;
  for (const GgufTensorInfo& info : header.tensors) {
    if (max_bytes != 0 && bytes != 0 && bytes + info.bytes > max_bytes) {
      parts.emplace_back();
      bytes = 0;
    }
    parts.back().tensors.push_back(info);
    bytes += info.bytes;
  }
  for (size_t i = 0; i < parts.size() && parts.size() > 1; ++i) {
    const auto u16 = [&](const char* key, size_t value) {
      parts[i].metadata.emplace_back(key, GgufValue(std::in_place_index<kU16>, static_cast<uint16_t>(value)));
    };
    u16("split.no", i);
    u16("split.count", parts.size());
    parts[i].metadata.emplace_back("split.tensors.count",
                                   GgufValue(std::in_place_index<kI32>, static_cast<int32_t>(header.tensors.size())));
  }
  return parts;
}

}  // namespace

GgufShards::GgufShards(fs::path path, std::string name, const GgufHeader& header, uint64_t max_bytes)
    : path_(std::move(path)), name_(std::move(name)), headers_(split(header, max_bytes)) {
  next();
}

void GgufShards::next() {
  const fs::path file = fs::is_directory(path_) ? path_ / gguf_file_name(name_, current_, headers_.size()) : path_;
  left_ = data_bytes(headers_[current_]);
  writer_ = std::make_unique<GgufWriter>(file, headers_[current_++]);
}

void GgufShards::append(std::span<const std::byte> bytes) {
  if (left_ == 0 && current_ < headers_.size() && !bytes.empty()) {
    writer_->finish();
    next();
  }
  writer_->append(bytes);
  left_ -= bytes.size();
}

void GgufShards::finish() { writer_->finish(); }

}  // namespace retort
