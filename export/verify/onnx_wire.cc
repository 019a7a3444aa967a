#include "export/verify/onnx_wire.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <set>
#include <tuple>

#include "core/base/error.h"

namespace retort {
namespace {

// One field of a message: a varint's value, or the bytes of any other.
struct Field {
  enum class Kind { kVarint, kBytes, kFixed };

  std::string_view label;
  uint64_t number = 0;
  Kind kind = Kind::kVarint;
  uint64_t value = 0;
  std::span<const std::byte> bytes;

  std::string text() const { return {reinterpret_cast<const char*>(message().data()), bytes.size()}; }
  std::span<const std::byte> message() const {
    need(kind == Kind::kBytes);
    return bytes;
  }
  int64_t integer() const {
    need(kind == Kind::kVarint);
    return static_cast<int64_t>(value);
  }
  float single() const {
    need(kind == Kind::kFixed && bytes.size() == sizeof(float));
    float number = 0;
    std::memcpy(&number, bytes.data(), sizeof number);
    return number;
  }

 private:
  // Programs skip a field that has not the type of the schema.
  void need(bool holds) const {
    if (!holds) fail("onnx", label, "it holds a field of another type than ONNX gives it");
  }
};

class Message {
 public:
  Message(std::span<const std::byte> bytes, std::string_view label) : rest_(bytes), label_(label) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    field.label = label_;
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
    for_fields("ModelProto", {1, 2, 3, 4, 5, 6, 7, 8, 14}, bytes, [&](const Field& field) {
      if (field.number == 7) graph(field.message());
      if (field.number == 8) opset(field.message());
    });
    return std::move(parts_);
  }

 private:
  // `known` are the fields that are read, and those that do not change what is computed, such as texts for people. What
  // another one says would go unheard.
  template <typename Visit>
  void for_fields(const char* type, std::initializer_list<uint64_t> known, std::span<const std::byte> bytes,
                  const Visit& visit) {
    Message message(bytes, label_);
    for (Field field; message.next(field);) {
      if (std::ranges::find(known, field.number) == known.end()) refuse(type, field.number);
      visit(field);
    }
  }

  [[noreturn]] void refuse(const std::string& type, uint64_t number) const {
    constexpr std::tuple<std::string_view, uint64_t, const char*> kNames[] = {
        {"ModelProto", 20, "training_info"},      {"ModelProto", 25, "functions"},
        {"GraphProto", 15, "sparse_initializer"}, {"TensorProto", 4, "float_data"},
        {"TensorProto", 5, "int32_data"},         {"TensorProto", 7, "int64_data"},
        {"AttributeProto", 4, "a text"},          {"AttributeProto", 5, "a tensor"},
        {"AttributeProto", 6, "a graph"},         {"AttributeProto", 7, "a list of floats"},
        {"AttributeProto", 21, "ref_attr_name"},  {"NodeProto", 8, "overload"},
    };
    std::string what = "the field " + std::to_string(number);
    for (const auto& [of, at, name] : kNames)
      if (of == type && at == number) what = name;
    fail("onnx", label_, "it has " + what + " in a " + type + ", which export does not write",
         "The graph is damaged, or another program wrote it");
  }

  void graph(std::span<const std::byte> bytes) {
    for_fields("GraphProto", {1, 2, 5, 10, 11, 12, 13, 16}, bytes, [&](const Field& field) {
      if (field.number == 1) node(field.message());
      if (field.number == 5) initializer(field.message());
      if (field.number == 11) parts_.inputs.push_back(declaration(field.message()));
      if (field.number == 12) parts_.outputs.push_back(declaration(field.message()));
    });
  }

  void opset(std::span<const std::byte> bytes) {
    std::string domain;
    int64_t version = 0;
    for_fields("OperatorSetIdProto", {1, 2}, bytes, [&](const Field& field) {
      if (field.number == 1) domain = field.text();
      if (field.number == 2) version = field.integer();
    });
    if (!parts_.opsets.emplace(domain, version).second)
      fail("onnx", label_, "the version of the operators of '" + domain + "' is given twice");
  }

  OnnxDeclaration declaration(std::span<const std::byte> bytes) {
    OnnxDeclaration value;
    for_fields("ValueInfoProto", {1, 2, 3, 4}, bytes, [&](const Field& field) {
      if (field.number == 1) value.name = field.text();
      if (field.number == 2) type(field.message(), value);
    });
    return value;
  }

  void type(std::span<const std::byte> bytes, OnnxDeclaration& value) {
    for_fields("TypeProto", {1, 6}, bytes, [&](const Field& of) {
      if (of.number != 1) return;
      for_fields("TypeProto.Tensor", {1, 2}, of.message(), [&](const Field& tensor) {
        if (tensor.number == 1) value.data_type = tensor.integer();
        if (tensor.number == 2) shape(tensor.message(), value.dims);
      });
    });
  }

  void shape(std::span<const std::byte> bytes, std::vector<int64_t>& dims) {
    for_fields("TensorShapeProto", {1}, bytes, [&](const Field& dim) {
      dims.push_back(-1);
      for_fields("TensorShapeProto.Dimension", {1, 2, 3}, dim.message(), [&](const Field& field) {
        if (field.number == 1) dims.back() = field.integer();
      });
    });
  }

  void node(std::span<const std::byte> bytes) {
    OnnxNode node;
    for_fields("NodeProto", {1, 2, 3, 4, 5, 6, 7, 9}, bytes, [&](const Field& field) {
      if (field.number == 1) node.inputs.push_back(field.text());
      if (field.number == 2) node.outputs.push_back(field.text());
      if (field.number == 3) node.name = field.text();
      if (field.number == 4) node.type = field.text();
      if (field.number == 5) attribute(field.message(), node);
      if (field.number == 7) node.domain = field.text();
    });
    parts_.nodes.push_back(std::move(node));
  }

  void attribute(std::span<const std::byte> bytes, OnnxNode& node) {
    std::string name;
    std::optional<int64_t> integer;
    std::optional<float> number;
    std::vector<int64_t> list;
    int64_t type = 0;
    for_fields("AttributeProto", {1, 2, 3, 8, 13, 20}, bytes, [&](const Field& field) {
      if (field.number == 1) name = field.text();
      if (field.number == 2) number = field.single();
      if (field.number == 3) integer = field.integer();
      if (field.number == 8) integers(field, list);
      if (field.number == 20) type = field.integer();
    });
    constexpr int64_t kFloat = 1, kInt = 2, kInts = 7;
    const int64_t given = number ? kFloat : integer ? kInt : kInts;
    if ((type != 0 && type != given) || (number && integer) || (!list.empty() && given != kInts))
      fail("onnx", label_, "the attribute '" + name + "' has another value than its type says");
    if (node.numbers.contains(name) || node.integers.contains(name) || node.lists.contains(name))
      fail("onnx", label_, "the attribute '" + name + "' is given twice");
    if (number) node.numbers[name] = *number;
    if (integer) node.integers[name] = *integer;
    if (given == kInts) node.lists[name] = std::move(list);
  }

  void initializer(std::span<const std::byte> bytes) {
    OnnxInitializer tensor;
    std::string name;
    std::set<std::string> entries;  // of external_data
    bool external = false;
    for_fields("TensorProto", {1, 2, 8, 9, 12, 13, 14, 16}, bytes, [&](const Field& field) {
      if (field.number == 1) integers(field, tensor.dims);
      if (field.number == 2) tensor.data_type = field.integer();
      if (field.number == 8) name = field.text();
      if (field.number == 9) tensor.raw = field.text();
      if (field.number == 13) entry(field.message(), tensor, entries);
      if (field.number == 14) external = field.integer() != 0;
    });
    if (external == tensor.location.empty() || (external ? !tensor.raw.empty() : !entries.empty()))
      fail("onnx", label_, "the weight '" + name + "' says that its data lie elsewhere than they do");
    if (!parts_.initializers.emplace(name, std::move(tensor)).second)
      fail("onnx", label_, "the weight '" + name + "' is given twice");
  }

  // Repeated integers come one by one or packed.
  void integers(const Field& field, std::vector<int64_t>& list) {
    if (field.kind == Field::Kind::kVarint) return list.push_back(field.integer());
    for (Message packed(field.message(), label_); !packed.empty();)
      list.push_back(static_cast<int64_t>(packed.varint()));
  }

  void entry(std::span<const std::byte> bytes, OnnxInitializer& tensor, std::set<std::string>& seen) {
    std::string key, value;
    for_fields("StringStringEntryProto", {1, 2}, bytes,
               [&](const Field& field) { (field.number == 1 ? key : value) = field.text(); });
    if (!seen.insert(key).second) fail("onnx", label_, "the " + key + " of a weight is given twice");
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

std::string label_of(const OnnxNode& node) {
  if (!node.name.empty()) return node.name;
  return node.type + " of '" + (node.outputs.empty() ? std::string() : node.outputs.front()) + "'";
}

OnnxParts parse_onnx_parts(std::span<const std::byte> model, std::string_view label) {
  return Parser(label).model(model);
}

}  // namespace retort
