#include <array>
#include <cstring>

#include "core/base/error.h"
#include "core/checkpoint/gguf.h"

namespace retort {
namespace {

constexpr uint32_t kVersion = 3, kFloat = 6, kString = 8, kDouble = 12;
constexpr std::array<int, 13> kBytes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // of the scalar types, by number

class HeaderText {
 public:
  template <typename T>
  void number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view value) {
    number<uint64_t>(value.size());
    text_.append(value);
  }
  void array(const GgufArray& array) {
    number(array.type);
    std::visit([&](const auto& values) { elements(array.type, values); }, array.values);
  }
  void value(const GgufValue& value) {
    number(static_cast<uint32_t>(value.index()));
    std::visit([&](const auto& v) { scalar(v); }, value);
  }
  const std::string& bytes() const { return text_; }

 private:
  void scalar(const std::string& value) { text(value); }
  void scalar(const std::shared_ptr<GgufArray>& value) { array(*value); }
  template <typename T>
  void scalar(T value) {
    number(value);
  }

  template <typename T>
  void elements(uint32_t type, const std::vector<T>& values) {
    const bool floats = type == kFloat || type == kDouble;
    const bool fits = std::is_same_v<T, std::string> ? type == kString
                      : std::is_same_v<T, double>    ? floats
                                                     : type < kBytes.size() && kBytes[type] > 0 && !floats;
    if (!fits) fail("gguf", "array", "the element type does not match the values");
    number<uint64_t>(values.size());
    for (const T& value : values) element(type, value);
  }
  void element(uint32_t, const std::string& value) { text(value); }
  void element(uint32_t type, double value) { type == kFloat ? number(static_cast<float>(value)) : number(value); }
  void element(uint32_t type, int64_t value) {  // little-endian: the low bytes come first
    text_.append(reinterpret_cast<const char*>(&value), static_cast<size_t>(kBytes[type]));
  }

  std::string text_;
};

uint64_t bytes_of(const GgufTensorInfo& info) {
  const GgmlType* type = find_ggml_type(info.type);
  if (type == nullptr || info.shape.empty() || info.shape.size() > 4 || info.shape.back() % type->block_elements != 0)
    fail("gguf", info.name, "the type and shape of the tensor do not fit each other");
  uint64_t elements = 1;
  for (const int64_t size : info.shape) elements *= static_cast<uint64_t>(size);
  return elements / static_cast<uint64_t>(type->block_elements) * static_cast<uint64_t>(type->block_bytes);
}

uint64_t aligned(uint64_t size, uint64_t alignment) { return (size + alignment - 1) / alignment * alignment; }

}  // namespace

struct GgufWriter::Impl {
  explicit Impl(const std::filesystem::path& path) : file(path) {}
  OutputFile file;
  std::vector<std::pair<std::string, uint64_t>> tensors;  // name, bytes
  uint64_t alignment = 32;
  size_t current = 0;
  uint64_t written = 0;  // of the current tensor

  void end_tensor() {
    file.pad_to(alignment);
    ++current;
    written = 0;
  }
};

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufHeader& header)
    : impl_(std::make_unique<Impl>(path)) {
  impl_->alignment = static_cast<uint64_t>(header.integer("general.alignment").value_or(32));
  if (impl_->alignment != header.alignment) fail("gguf", path.string(), "general.alignment and the alignment differ");
  HeaderText out;
  out.number<uint32_t>(0x46554747);
  out.number(kVersion);
  out.number<uint64_t>(header.tensors.size());
  out.number<uint64_t>(header.metadata.size());
  for (const auto& [key, value] : header.metadata) {
    out.text(key);
    out.value(value);
  }
  uint64_t offset = 0;
  for (const GgufTensorInfo& info : header.tensors) {
    out.text(info.name);
    out.number(static_cast<uint32_t>(info.shape.size()));
    for (auto size = info.shape.rbegin(); size != info.shape.rend(); ++size) out.number<uint64_t>(*size);
    out.number(info.type);
    out.number(offset);
    impl_->tensors.emplace_back(info.name, bytes_of(info));
    offset = aligned(offset + impl_->tensors.back().second, impl_->alignment);
  }
  impl_->file.write(out.bytes());
  impl_->file.pad_to(impl_->alignment);
}

GgufWriter::~GgufWriter() = default;

void GgufWriter::append(std::span<const std::byte> bytes) {
  Impl& p = *impl_;
  if (p.current == p.tensors.size()) fail("gguf", "writer", "data follow the last tensor");
  const auto& [name, size] = p.tensors[p.current];
  if (bytes.size() > size - p.written) fail("gguf", name, "more bytes were written than the tensor has");
  p.file.write(bytes);
  p.written += bytes.size();
  if (p.written == size) p.end_tensor();
}

void GgufWriter::finish() {
  Impl& p = *impl_;
  if (p.current != p.tensors.size()) fail("gguf", p.tensors[p.current].first, "the tensor was not written whole");
  p.file.close();
}

}  // namespace retort
