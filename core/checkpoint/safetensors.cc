#include "core/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"

namespace retort {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation

[[noreturn]] void bad_file(std::string_view label, const std::string& reason) { fail("safetensors", label, reason); }

// The text of the header, after its length was checked against the file.
std::string_view header_text(std::span<const std::byte> head, uint64_t file_size, std::string_view label) {
  uint64_t length = 0;
  if (file_size < 8 || head.size() < 8) bad_file(label, "the file is shorter than its 8-byte header length");
  std::memcpy(&length, head.data(), 8);
  if (length > kMaxHeader) bad_file(label, "the header length " + std::to_string(length) + " is above 100 MB");
  if (length > file_size - 8 || length > head.size() - 8)
    bad_file(label, "the header of " + std::to_string(length) + " bytes does not fit in the file of " +
                        std::to_string(file_size) + " bytes");
  return {reinterpret_cast<const char*>(head.data()) + 8, static_cast<size_t>(length)};
}

// A list of whole numbers below 2^63; nothing is converted silently.
std::vector<int64_t> counts(const SortedJson& entry, const char* key, const std::string& label) {
  const auto it = entry.find(key);
  if (it == entry.end() || !it->is_array()) bad_file(label, std::string("'") + key + "' is not a list");
  std::vector<int64_t> values;
  for (const SortedJson& value : *it) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX)
      bad_file(label, std::string("'") + key + "' holds " + value.dump().substr(0, 40) + ", which is not a size");
    values.push_back(value.get<int64_t>());
  }
  return values;
}

uint64_t bytes_of_shape(const std::vector<int64_t>& shape, DType dtype, const std::string& label) {
  auto bytes = static_cast<int64_t>(size_of(dtype));
  for (const int64_t size : shape)
    if (__builtin_mul_overflow(bytes, size, &bytes)) bad_file(label, "the size of its shape overflows");
  return static_cast<uint64_t>(bytes);
}

TensorInfo parse_tensor(const std::string& name, const SortedJson& entry, uint64_t data_start, uint64_t data_size,
                        std::string_view label) {
  const std::string subject = std::string(label) + " tensor '" + name.substr(0, 200) + "'";
  if (!entry.is_object()) bad_file(subject, "its entry is not an object");
  const auto type_name = json_required<std::string>(entry, "dtype", subject);
  const auto dtype = parse_safetensors_dtype(type_name);
  if (!dtype) bad_file(subject, "the type '" + type_name + "' is not supported");
  TensorInfo info{.name = name, .dtype = *dtype, .shape = counts(entry, "shape", subject)};
  const auto offsets = counts(entry, "data_offsets", subject);
  if (offsets.size() != 2 || offsets[0] > offsets[1]) bad_file(subject, "its data_offsets are not a range");
  if (static_cast<uint64_t>(offsets[1]) > data_size)
    bad_file(subject, "its data ends at " + std::to_string(offsets[1]) + ", beyond the " + std::to_string(data_size) +
                          " bytes of data in the file");
  info.offset = data_start + static_cast<uint64_t>(offsets[0]);
  info.bytes = static_cast<uint64_t>(offsets[1] - offsets[0]);
  if (info.bytes != bytes_of_shape(info.shape, info.dtype, subject))
    bad_file(subject, "its data of " + std::to_string(info.bytes) + " bytes does not fit its shape and type");
  return info;
}

// Tensors must fill the data without a gap and without sharing bytes, as the format asks.
void check_layout(const std::vector<TensorInfo>& tensors, uint64_t data_start, uint64_t file_size,
                  std::string_view label) {
  uint64_t end = data_start;
  for (const TensorInfo& info : tensors) {
    if (info.offset < end) bad_file(label, "the tensor '" + info.name + "' overlaps another one");
    if (info.offset > end) bad_file(label, "there is a gap before the tensor '" + info.name + "'");
    end = info.offset + info.bytes;
  }
  if (end != file_size)
    bad_file(label, std::to_string(file_size - end) + " bytes at the end of the file belong to no tensor");
}

void check_metadata(const SortedJson& metadata, std::string_view label) {
  if (!metadata.is_object()) bad_file(label, "'__metadata__' is not an object");
  for (const SortedJson& value : metadata)
    if (!value.is_string()) bad_file(label, "'__metadata__' holds a value that is not a text");
}

}  // namespace

std::vector<TensorInfo> parse_safetensors_header(std::span<const std::byte> head, uint64_t file_size,
                                                 std::string_view label, SortedJson* metadata) {
  const std::string_view text = header_text(head, file_size, label);
  if (!text.starts_with('{')) bad_file(label, "the header does not begin with '{'");
  const SortedJson header = parse_sorted_json(text, label);  // it may have very many keys
  const uint64_t data_start = 8 + text.size();
  std::vector<TensorInfo> tensors;
  tensors.reserve(header.size());
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      check_metadata(entry, label);
      if (metadata != nullptr) *metadata = entry;
    } else {
      tensors.push_back(parse_tensor(name, entry, data_start, file_size - data_start, label));
    }
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  check_layout(tensors, data_start, file_size, label);
  return tensors;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path), tensors_(parse_safetensors_header(file_.bytes(), file_.bytes().size(), path.string(), &metadata_)) {}

}  // namespace retort
