#include <cstdio>
#include <optional>
#include <unordered_set>

#include "core/base/error.h"
#include "core/checkpoint/safetensors.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr uint64_t kBuffered = uint64_t{16} << 20;
constexpr size_t kReserved = size_t{1} << 20;  // some 8000 tensors
constexpr std::string_view kHeaderStart = R"({"__metadata__":{"format":"pt"})";

uint64_t product(DType dtype, const std::vector<int64_t>& shape) {
  auto bytes = static_cast<uint64_t>(size_of(dtype));
  for (const int64_t size : shape) bytes *= static_cast<uint64_t>(size);
  return bytes;
}

std::string header_entry(const std::string& name, DType dtype, const std::vector<int64_t>& shape, uint64_t begin,
                         uint64_t end) {
  const Json value{{"dtype", safetensors_name(dtype)}, {"shape", shape}, {"data_offsets", {begin, end}}};
  return "," + Json(name).dump() + ":" + value.dump();
}

// 8 bytes of length and the header, padded with blanks to `total` bytes or, with 0, to a multiple of 8.
std::string framed_header(std::string text, size_t total) {
  text += "}";
  const size_t size = total == 0 ? (text.size() + 7) / 8 * 8 : total - 8;
  text.resize(size, ' ');
  std::string framed(8, '\0');
  for (size_t i = 0; i < 8; ++i) framed[i] = static_cast<char>(size >> (8 * i) & 0xff);
  return framed + text;
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

// One file: buffered while small, then streamed behind the room reserved for its header.
class Shard {
 public:
  explicit Shard(fs::path path) : path_(std::move(path)), header_(kHeaderStart) {}

  uint64_t data_bytes() const { return data_bytes_; }
  bool empty() const { return names_.empty(); }
  const std::vector<std::string>& names() const { return names_; }
  const fs::path& path() const { return path_; }

  // False when the header would outgrow its room.
  bool begin(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    const std::string entry = header_entry(name, dtype, shape, data_bytes_, data_bytes_ + product(dtype, shape));
    if (!empty() && header_.size() + entry.size() + 16 > kReserved) return false;
    last_entry_ = header_.size();
    header_ += entry;
    names_.push_back(name);
    return true;
  }

  void append(std::span<const std::byte> bytes) {
    data_bytes_ += bytes.size();
    if (!file_ && data_bytes_ <= kBuffered) {
      buffer_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return;
    }
    if (!file_) start_streaming();
    file_->write(bytes);
  }

  // Takes back what was begun last, with the bytes that came of it.
  void drop(uint64_t bytes) {
    header_.resize(last_entry_);
    names_.pop_back();
    data_bytes_ -= bytes;
    if (file_)
      file_->cut(kReserved + data_bytes_);
    else
      buffer_.resize(data_bytes_);
  }

  void close() {
    if (file_) {
      const std::string head = framed_header(header_, kReserved);
      file_->overwrite(0, std::as_bytes(std::span(head)));
    } else {
      file_.emplace(path_);
      file_->write(framed_header(header_, 0));
      file_->write(buffer_);
    }
    file_->close();
    file_.reset();
    buffer_ = {};
  }

 private:
  void start_streaming() {
    file_.emplace(path_);
    file_->write(std::string(kReserved, ' '));
    file_->write(buffer_);
    buffer_ = {};
  }

  fs::path path_;
  std::string header_, buffer_;
  std::vector<std::string> names_;
  std::optional<OutputFile> file_;
  uint64_t data_bytes_ = 0;
  size_t last_entry_ = 0;  // where it begins in the header
};

}  // namespace

struct SafetensorsWriter::Impl {
  fs::path directory;
  uint64_t max_shard_bytes = 0;
  std::vector<std::unique_ptr<Shard>> shards;
  std::unordered_set<std::string> names;
  std::string current;                // the tensor being written
  uint64_t written = 0, missing = 0;  // its bytes that came, and those still to come
  uint64_t data_bytes = 0;
  bool finished = false;

  Shard& open_shard() {
    if (!shards.empty()) shards.back()->close();
    const fs::path path = directory / ("model.safetensors.partial-" + std::to_string(shards.size()));
    return *shards.emplace_back(std::make_unique<Shard>(path));
  }

  void require_complete() const {
    if (missing != 0) fail("safetensors", current, std::to_string(missing) + " bytes of the tensor were not written");
  }

  void write_index() const {
    Json index{{"metadata", {{"total_size", data_bytes}}}, {"weight_map", Json::object()}};
    for (size_t i = 0; i < shards.size(); ++i)
      for (const std::string& name : shards[i]->names()) index["weight_map"][name] = shard_name(i, shards.size());
    write_text_file(directory / "model.safetensors.index.json", index.dump(2) + "\n");
  }
};

SafetensorsWriter::SafetensorsWriter(fs::path directory, uint64_t max_shard_bytes) : impl_(std::make_unique<Impl>()) {
  impl_->directory = std::move(directory);
  impl_->max_shard_bytes = max_shard_bytes;
}

SafetensorsWriter::~SafetensorsWriter() {
  std::error_code ignored;
  if (impl_->finished) return;
  for (const auto& shard : impl_->shards) fs::remove(shard->path(), ignored);
}

void SafetensorsWriter::add(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
                            std::span<const std::byte> bytes) {
  begin(name, dtype, shape);
  append(bytes);
  impl_->require_complete();
}

void SafetensorsWriter::begin(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  Impl& p = *impl_;
  p.require_complete();
  if (!p.names.insert(name).second) fail("safetensors", name, "the tensor was written twice");
  p.current = name;
  p.written = 0;
  p.missing = product(dtype, shape);
  Shard* shard = p.shards.empty() ? &p.open_shard() : p.shards.back().get();
  const bool full = !shard->empty() && shard->data_bytes() + p.missing > p.max_shard_bytes;
  if (full || !shard->begin(name, dtype, shape)) p.open_shard().begin(name, dtype, shape);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  Impl& p = *impl_;
  if (bytes.size() > p.missing) fail("safetensors", p.current, "more bytes were written than the shape asks for");
  p.shards.back()->append(bytes);
  p.written += bytes.size();
  p.missing -= bytes.size();
  p.data_bytes += bytes.size();
}

void SafetensorsWriter::drop() {
  Impl& p = *impl_;
  p.shards.back()->drop(p.written);
  p.names.erase(p.current);
  p.data_bytes -= p.written;
  p.missing = 0;
}

void SafetensorsWriter::finish() {
  Impl& p = *impl_;
  p.require_complete();
  if (p.shards.empty()) p.open_shard();
  p.shards.back()->close();
  for (size_t i = 0; i < p.shards.size(); ++i)
    fs::rename(p.shards[i]->path(), p.directory / shard_name(i, p.shards.size()));
  if (p.shards.size() > 1) p.write_index();
  p.finished = true;
}

uint64_t safetensors_overhead(uint64_t data_bytes, uint64_t tensors, uint64_t names) {
  constexpr uint64_t kEntry = 160, kIndexEntry = 64, kStart = 256;
  const uint64_t header = names + tensors * kEntry + kStart;
  if (data_bytes <= kBuffered) return header;
  // Two shards, one after the other, hold more than one may; and a header that is full begins another.
  const uint64_t shards = 1 + data_bytes / (kShardBytes / 2) + 2 * (header / kReserved);
  return shards * kReserved + (shards > 1 ? names + tensors * kIndexEntry + kStart : 0);
}

uint64_t SafetensorsWriter::data_bytes() const { return impl_->data_bytes; }

}  // namespace retort
