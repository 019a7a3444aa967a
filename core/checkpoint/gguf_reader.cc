#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <unordered_set>

#include "core/base/error.h"
#include "core/checkpoint/gguf.h"

namespace retort {
namespace {

constexpr uint32_t kArray = 9, kMaxDims = 4;  // a value type; dimensions of a tensor
constexpr uint64_t kDefaultAlignment = 32, kMaxAlignment = uint64_t{1} << 20;
constexpr uint64_t kMinEntry = 13, kMinTensor = 24;  // bytes of the smallest metadata entry and tensor description

[[noreturn]] void bad_file(std::string_view label, const std::string& reason) { fail("gguf", label, reason); }

// Reads the header; every length is checked against what is left of the file before anything is allocated by it.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, std::string_view label) : file_(file), label_(label) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return file_.size() - position_; }
  std::string_view label() const { return label_; }

  template <typename T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }

  std::string text() {
    const auto length = read<uint64_t>();
    return {reinterpret_cast<const char*>(take(length)), static_cast<size_t>(length)};
  }

  // A number of items of at least `item_bytes` each.
  uint64_t count(uint64_t item_bytes, const char* what) {
    const auto count = read<uint64_t>();
    if (count > left() / item_bytes)
      bad_file(label_, "it claims " + std::to_string(count) + " " + what + ", more than the file has room for");
    return count;
  }

 private:
  const std::byte* take(uint64_t length) {
    if (length > left()) bad_file(label_, "the file ends within its header, at byte " + std::to_string(file_.size()));
    const std::byte* at = file_.data() + position_;
    position_ += length;
    return at;
  }

  std::span<const std::byte> file_;
  std::string_view label_;
  uint64_t position_ = 0;
};

bool read_bool(Cursor& in) {
  const auto value = in.read<uint8_t>();
  if (value > 1) bad_file(in.label(), "a boolean is neither 0 nor 1");
  return value == 1;
}

template <typename T, typename Values>
void read_numbers(Cursor& in, uint64_t count, Values& values) {
  values.resize(count);
  for (auto& value : values) value = static_cast<typename Values::value_type>(in.read<T>());
}

using Reader = GgufValue (*)(Cursor&);
template <typename T>
GgufValue scalar(Cursor& in) {
  return in.read<T>();
}

// By GGUF type number; arrays are read by read_array.
struct ValueType {
  uint64_t bytes;
  Reader read;
  void (*read_array)(Cursor&, uint64_t count, GgufArray&);
};
template <typename T>
void integers_into(Cursor& in, uint64_t count, GgufArray& array) {
  read_numbers<T>(in, count, array.values.emplace<std::vector<int64_t>>());
}
template <typename T>
void doubles_into(Cursor& in, uint64_t count, GgufArray& array) {
  read_numbers<T>(in, count, array.values.emplace<std::vector<double>>());
}
void strings_into(Cursor& in, uint64_t count, GgufArray& array) {
  auto& values = array.values.emplace<std::vector<std::string>>(count);
  for (std::string& value : values) value = in.text();
}
void booleans_into(Cursor& in, uint64_t count, GgufArray& array) {
  auto& values = array.values.emplace<std::vector<int64_t>>(count);
  for (int64_t& value : values) value = read_bool(in);
}

constexpr std::array<ValueType, 13> kValueTypes{{
    {1, scalar<uint8_t>, integers_into<uint8_t>},
    {1, scalar<int8_t>, integers_into<int8_t>},
    {2, scalar<uint16_t>, integers_into<uint16_t>},
    {2, scalar<int16_t>, integers_into<int16_t>},
    {4, scalar<uint32_t>, integers_into<uint32_t>},
    {4, scalar<int32_t>, integers_into<int32_t>},
    {4, scalar<float>, doubles_into<float>},
    {1, [](Cursor& in) -> GgufValue { return read_bool(in); }, booleans_into},
    {8, [](Cursor& in) -> GgufValue { return in.text(); }, strings_into},
    {12, nullptr, nullptr},
    {8, scalar<uint64_t>, integers_into<uint64_t>},
    {8, scalar<int64_t>, integers_into<int64_t>},
    {8, scalar<double>, doubles_into<double>},
}};

uint32_t read_value_type(Cursor& in, const std::string& key) {
  const auto type = in.read<uint32_t>();
  if (type >= kValueTypes.size())
    bad_file(in.label(), "the value of '" + key + "' has the unknown type " + std::to_string(type));
  return type;
}

GgufValue read_array(Cursor& in, const std::string& key) {
  auto array = std::make_shared<GgufArray>();
  array->type = read_value_type(in, key);
  if (array->type == kArray) bad_file(in.label(), "the value of '" + key + "' is a list of lists, which is not read");
  const ValueType& type = kValueTypes[array->type];
  type.read_array(in, in.count(type.bytes, "list elements"), *array);
  return array;
}

void read_metadata(Cursor& in, uint64_t count, GgufHeader& header) {
  std::unordered_set<std::string> keys;
  for (uint64_t i = 0; i < count; ++i) {
    std::string key = in.text();
    if (!keys.insert(key).second) bad_file(in.label(), "the key '" + key + "' is given twice");
    const uint32_t type = read_value_type(in, key);
    GgufValue value = type == kArray ? read_array(in, key) : kValueTypes[type].read(in);
    header.metadata.emplace_back(std::move(key), std::move(value));
  }
}

uint64_t bytes_of(const GgufTensorInfo& info, const GgmlType& type, std::string_view label) {
  int64_t elements = 1;
  for (const int64_t size : info.shape)
    if (__builtin_mul_overflow(elements, size, &elements))
      bad_file(label, "the size of the tensor '" + info.name + "' overflows");
  if (info.shape.back() % type.block_elements != 0)
    bad_file(label, "the rows of the tensor '" + info.name + "' are not whole " + std::string(type.name) + " blocks");
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / type.block_elements, type.block_bytes, &bytes))
    bad_file(label, "the size of the tensor '" + info.name + "' overflows");
  return static_cast<uint64_t>(bytes);
}

GgufTensorInfo read_tensor(Cursor& in) {
  GgufTensorInfo info;
  info.name = in.text();
  const auto dims = in.read<uint32_t>();
  if (dims < 1 || dims > kMaxDims)
    bad_file(in.label(), "the tensor '" + info.name + "' has " + std::to_string(dims) + " dimensions");
  for (uint32_t i = 0; i < dims; ++i) {
    const auto size = in.read<uint64_t>();
    if (size < 1 || size > INT64_MAX)
      bad_file(in.label(), "the tensor '" + info.name + "' has the size " + std::to_string(size));
    info.shape.insert(info.shape.begin(), static_cast<int64_t>(size));
  }
  info.type = in.read<uint32_t>();
  const GgmlType* type = find_ggml_type(info.type);
  if (type == nullptr)
    bad_file(in.label(), "the tensor '" + info.name + "' has the unknown type " + std::to_string(info.type));
  info.bytes = bytes_of(info, *type, in.label());
  info.offset = in.read<uint64_t>();
  return info;
}

void read_tensors(Cursor& in, uint64_t count, GgufHeader& header) {
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < count; ++i) {
    header.tensors.push_back(read_tensor(in));
    if (!names.insert(header.tensors.back().name).second)
      bad_file(in.label(), "the tensor '" + header.tensors.back().name + "' is given twice");
  }
}

uint64_t read_alignment(const GgufHeader& header, std::string_view label) {
  const auto value = header.integer("general.alignment");
  if (!value) return kDefaultAlignment;
  const auto alignment = static_cast<uint64_t>(*value);
  if (*value < 1 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0)
    bad_file(label, "general.alignment is " + std::to_string(*value) + ", not a power of two up to 2^20");
  return alignment;
}

uint64_t aligned(uint64_t size, uint64_t alignment) { return (size + alignment - 1) / alignment * alignment; }

// Tensors must lie one after the other, each padded to the alignment: as ggml's reader asks.
void place_tensors(GgufHeader& header, uint64_t data_start, uint64_t file_size, std::string_view label) {
  std::vector<GgufTensorInfo*> order;
  for (GgufTensorInfo& info : header.tensors) order.push_back(&info);
  std::ranges::stable_sort(order, {}, [](const GgufTensorInfo* info) { return info->offset; });
  uint64_t end = 0;
  for (GgufTensorInfo* info : order) {
    if (info->offset < end) bad_file(label, "the tensor '" + info->name + "' overlaps another one");
    if (info->offset > aligned(end, header.alignment))
      bad_file(label, "there is a gap before the tensor '" + info->name + "'");
    if (info->offset % header.alignment != 0) bad_file(label, "the tensor '" + info->name + "' is not aligned");
    if (data_start > file_size || info->offset > file_size - data_start ||
        info->bytes > file_size - data_start - info->offset)
      bad_file(label, "the data of the tensor '" + info->name + "' lie beyond the end of the file");
    end = info->offset + info->bytes;
    info->offset += data_start;
  }
  const uint64_t last = data_start + aligned(end, header.alignment);
  header.behind = file_size > last ? file_size - last : 0;
}

void check_magic(Cursor& in) {
  if (in.left() < 8 || in.read<uint32_t>() != 0x46554747) bad_file(in.label(), "the file does not begin with 'GGUF'");
  const auto version = in.read<uint32_t>();
  if (version != 0 && (version & 0xffff) == 0) bad_file(in.label(), "big-endian files are not read");
  if (version != 2 && version != 3)
    fail("gguf", in.label(), "version " + std::to_string(version) + " is not read", "Supported are 2 and 3");
}

template <typename T>
const T* array_of(const GgufHeader& header, std::string_view key, const char* what) {
  const GgufValue* value = header.find(key);
  if (value == nullptr) return nullptr;
  const auto* array = std::get_if<std::shared_ptr<GgufArray>>(value);
  const T* values = array == nullptr ? nullptr : std::get_if<T>(&(*array)->values);
  if (values == nullptr) fail("gguf", key, std::string("the value is not a list of ") + what);
  return values;
}

double shortest_decimal(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double result = value;
  std::from_chars(text, end, result);
  return result;
}

}  // namespace

GgufHeader parse_gguf(std::span<const std::byte> file, std::string_view label) {
  Cursor in(file, label);
  check_magic(in);
  GgufHeader header;
  const uint64_t tensors = in.count(kMinTensor, "tensors"), entries = in.count(kMinEntry, "metadata entries");
  read_metadata(in, entries, header);
  header.alignment = read_alignment(header, label);
  read_tensors(in, tensors, header);
  place_tensors(header, aligned(in.position(), header.alignment), file.size(), label);
  return header;
}

const GgufValue* GgufHeader::find(std::string_view key) const {
  const auto found = std::ranges::find_if(metadata, [&](const auto& entry) { return entry.first == key; });
  return found == metadata.end() ? nullptr : &found->second;
}

const GgufTensorInfo* GgufHeader::find_tensor(std::string_view name) const {
  const auto found = std::ranges::find_if(tensors, [&](const auto& info) { return info.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

std::optional<int64_t> GgufHeader::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& v) -> int64_t {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::is_same_v<T, uint64_t> && static_cast<uint64_t>(v) > INT64_MAX)
            fail("gguf", key, "the value is out of range");
          return static_cast<int64_t>(v);
        } else {
          fail("gguf", key, "the value is not a whole number");
        }
      },
      *value);
}

std::optional<double> GgufHeader::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const float* number = std::get_if<float>(value)) return shortest_decimal(*number);
  if (const double* number = std::get_if<double>(value)) return *number;
  return static_cast<double>(*integer(key));
}

std::optional<std::string> GgufHeader::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  fail("gguf", key, "the value is not a text");
}

std::optional<bool> GgufHeader::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const bool* truth = std::get_if<bool>(value)) return *truth;
  fail("gguf", key, "the value is not a boolean");
}

const std::vector<std::string>* GgufHeader::strings(std::string_view key) const {
  return array_of<std::vector<std::string>>(*this, key, "texts");
}
const std::vector<double>* GgufHeader::numbers(std::string_view key) const {
  return array_of<std::vector<double>>(*this, key, "numbers");
}
const std::vector<int64_t>* GgufHeader::integers(std::string_view key) const {
  return array_of<std::vector<int64_t>>(*this, key, "whole numbers");
}

}  // namespace retort
