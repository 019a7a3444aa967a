#include "export/verify/onnx_wire.h"

#include <charconv>
#include <cstring>
#include <optional>

#include "core/base/error.h"

namespace retort {
namespace {

// One field of a message: a varint's value, or the bytes of any other.
struct Field {
  uint64_t number = 0;
  enum class Kind { kVarint, kBytes, kFixed } kind = Kind::kVarint;
  uint64_t value = 0;
  std::span<const std::byte> bytes;

  std::string text() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
};

class Message {
 public:
  Message(std::span<const std::byte> bytes, std::string_view label) : rest_(bytes), label_(label) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    field.number = tag >> 3;
    field.bytes = {};
    switch (tag & 7) {
      case 0:
        field.kind = Field::Kind::kVarint;
        field.value = varint();
        break;
      case 1:
        field.kind = Field::Kind::kFixed;
        field.bytes = take(8);
        break;
      case 2:
        field.kind = Field::Kind::kBytes;
        field.bytes = take(varint());
        break;
      case 5:
        field.kind = Field::Kind::kFixed;
        field.bytes = take(4);
        break;
      default: fail("onnx", label_, "it holds a field of an unknown kind");
    }
    return true;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = std::to_integer<uint64_t>(take(1)[0]);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("onnx", label_, "it holds a number of more than 64 bits");
  }
  bool empty() const { return rest_.empty(); }

 private:
  std::span<const std::byte> take(uint64_t count) {
    if (count > rest_.size()) fail("onnx", label_, "it ends inside a field");
    const auto taken = rest_.first(static_cast<size_t>(count));
    rest_ = rest_.subspan(static_cast<size_t>(count));
    return taken;
  }

  std::span<const std::byte> rest_;
  std::string_view label_;
};

class Parser {
 public:
  explicit Parser(std::string_view label) : label_(label) {}

  OnnxParts model(std::span<const std::byte> bytes) {
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 7) graph(field.bytes);  // ModelProto.graph
      if (field.number == 8) opset(field.bytes);
    });
    return std::move(parts_);
  }

 private:
  template <typename Visit>
  void for_fields(std::span<const std::byte> bytes, const Visit& visit) {
    Message message(bytes, label_);
    for (Field field; message.next(field);) visit(field);
  }

  void graph(std::span<const std::byte> bytes) {
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 1) node(field.bytes);
      if (field.number == 5) initializer(field.bytes);
      if (field.number == 11) parts_.inputs.push_back(declaration(field.bytes));
      if (field.number == 12) parts_.outputs.push_back(declaration(field.bytes));
    });
  }

  void opset(std::span<const std::byte> bytes) {
    std::string domain;
    uint64_t version = 0;
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 1) domain = field.text();
      if (field.number == 2) version = field.value;
    });
    parts_.opsets[domain] = static_cast<int64_t>(version);
  }

  // The field `number` of a message in a message.
  template <typename Visit>
  void for_inner(std::span<const std::byte> bytes, uint64_t number, const Visit& visit) {
    for_fields(bytes, [&](const Field& field) {
      if (field.number == number) for_fields(field.bytes, visit);
    });
  }

  // ValueInfoProto, with TypeProto.Tensor and TensorShapeProto inside.
  OnnxDeclaration declaration(std::span<const std::byte> bytes) {
    OnnxDeclaration value;
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 1) value.name = field.text();
      if (field.number == 2)
        for_inner(field.bytes, 1, [&](const Field& tensor) {
          if (tensor.number == 1) value.data_type = static_cast<int64_t>(tensor.value);
          if (tensor.number == 2) for_fields(tensor.bytes, [&](const Field& dim) { size(dim.bytes, value.dims); });
        });
    });
    return value;
  }

  void size(std::span<const std::byte> bytes, std::vector<int64_t>& dims) {
    dims.push_back(-1);
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 1) dims.back() = static_cast<int64_t>(field.value);
    });
  }

  void node(std::span<const std::byte> bytes) {
    OnnxNode node;
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 1) node.inputs.push_back(field.text());
      if (field.number == 2) node.outputs.push_back(field.text());
      if (field.number == 3) node.name = field.text();
      if (field.number == 4) node.type = field.text();
      if (field.number == 5) attribute(field.bytes, node);
      if (field.number == 7) node.domain = field.text();
    });
    parts_.nodes.push_back(std::move(node));
  }

  void attribute(std::span<const std::byte> bytes, OnnxNode& node) {
    std::string name;
    std::optional<int64_t> integer;
    std::optional<float> number;
    std::vector<int64_t> list;
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 1) name = field.text();
      if (field.number == 2 && field.bytes.size() == sizeof(float))
        std::memcpy(&number.emplace(), field.bytes.data(), sizeof(float));
      if (field.number == 3) integer = static_cast<int64_t>(field.value);
      if (field.number == 8) integers(field, list);
    });
    if (!list.empty()) node.lists[name] = std::move(list);
    if (number) node.numbers[name] = *number;
    if (integer) node.integers[name] = *integer;
  }

  void initializer(std::span<const std::byte> bytes) {
    OnnxInitializer tensor;
    std::string name;
    for_fields(bytes, [&](const Field& field) {
      if (field.number == 1) integers(field, tensor.dims);
      if (field.number == 2) tensor.data_type = static_cast<int64_t>(field.value);
      if (field.number == 8) name = field.text();
      if (field.number == 9) tensor.raw = field.text();
      if (field.number == 13) external(field.bytes, tensor);
    });
    if (!parts_.initializers.emplace(name, std::move(tensor)).second)
      fail("onnx", label_, "the weight '" + name + "' is given twice");
  }

  // Repeated integers come one by one or packed.
  void integers(const Field& field, std::vector<int64_t>& list) {
    if (field.kind == Field::Kind::kVarint) return list.push_back(static_cast<int64_t>(field.value));
    for (Message packed(field.bytes, label_); !packed.empty();) list.push_back(static_cast<int64_t>(packed.varint()));
  }

  void external(std::span<const std::byte> bytes, OnnxInitializer& tensor) {
    std::string key, value;
    for_fields(bytes, [&](const Field& field) { (field.number == 1 ? key : value) = field.text(); });
    if (key == "location") tensor.location = value;
    if (key == "offset") tensor.offset = number(value);
    if (key == "length") tensor.length = number(value);
  }

  uint64_t number(const std::string& text) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
      fail("onnx", label_, "the place of a weight is no number: '" + text.substr(0, 40) + "'");
    return value;
  }

  std::string_view label_;
  OnnxParts parts_;
};

}  // namespace

OnnxParts parse_onnx_parts(std::span<const std::byte> model, std::string_view label) {
  return Parser(label).model(model);
}

}  // namespace retort
