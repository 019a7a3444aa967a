// The reader of ONNX files on bytes written by hand from the protobuf encoding, and on damaged ones.
#include "export/verify/onnx_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/support/error_of.h"

namespace retort {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

std::string field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) + bytes;
}
std::string varint(int number, int value) {
  return std::string(1, static_cast<char>(number << 3)) + static_cast<char>(value);
}
OnnxParts parse(const std::string& model) { return parse_onnx_parts(std::as_bytes(std::span(model)), "test"); }

std::string entry(const std::string& key, const std::string& value) {
  return field(13, field(1, key) + field(2, value));
}

std::string sample() {
  const std::string weight = field(1, std::string("\x02\x80\x01", 3)) + varint(2, 1) + field(8, "w") +
                             entry("location", "d") + entry("offset", "64") + entry("length", "1024") + varint(14, 1);
  const std::string unpacked = varint(1, 3) + varint(1, 4) + varint(2, 2) + field(8, "v") + field(9, "ab");
  const std::string number("\x15\x00\x00\xC0\x3F", 5);  // field 2 as float32: 1.5
  const std::string node = field(1, "x") + field(1, "w") + field(2, "y") + field(3, "n") + field(4, "MatMulNBits") +
                           field(5, field(1, "K") + varint(3, 9)) + field(5, field(1, "s") + number);
  return varint(1, 10) + field(7, field(1, node) + field(5, weight) + field(5, unpacked));
}

TEST(OnnxWire, ReadsWeightsAndOperators) {
  const OnnxParts list = parse(sample());
  const OnnxInitializer& weight = list.initializers.at("w");
  EXPECT_THAT(weight.dims, ElementsAre(2, 128));
  EXPECT_EQ(weight.data_type, 1);
  EXPECT_EQ(weight.location, "d");
  EXPECT_EQ(weight.offset, 64u);
  EXPECT_EQ(weight.length, 1024u);
  EXPECT_THAT(list.initializers.at("v").dims, ElementsAre(3, 4));
  EXPECT_EQ(list.initializers.at("v").raw, "ab");
  ASSERT_EQ(list.nodes.size(), 1u);
  EXPECT_EQ(list.nodes[0].name, "n");
  EXPECT_EQ(list.nodes[0].type, "MatMulNBits");
  EXPECT_THAT(list.nodes[0].inputs, ElementsAre("x", "w"));
  EXPECT_THAT(list.nodes[0].outputs, ElementsAre("y"));
  EXPECT_EQ(list.nodes[0].integers.at("K"), 9);
  EXPECT_EQ(list.nodes[0].numbers.at("s"), 1.5f);
}

TEST(OnnxWire, RefusesDamagedBytes) {
  const std::string good = sample();
  constexpr size_t kWholeField = 2;  // the bytes up to here are a message of their own
  for (size_t size = 1; size < good.size(); ++size) {
    if (size == kWholeField) continue;
    EXPECT_THROW(parse(good.substr(0, size)), Error) << size;
  }
  EXPECT_THROW(parse(std::string(11, '\xFF')), Error);                    // a tag of more than 64 bits
  EXPECT_THROW(parse(field(7, field(5, entry("offset", "-1")))), Error);  // no number
  EXPECT_THROW(parse(field(7, field(5, field(8, "w")) + field(5, field(8, "w")))), Error);  // twice
  EXPECT_THROW(parse("\x0B"), Error);                                                       // a group
}

std::string model_with(int part, const std::string& bytes) { return field(7, field(part, bytes)); }
std::string weight(const std::string& fields) { return model_with(5, field(8, "w") + fields); }
std::string attribute(const std::string& fields) { return model_with(1, field(5, field(1, "a") + fields)); }

// What verify does not follow must not pass for what it knows.
TEST(OnnxWire, RefusesWhatItDoesNotRead) {
  const std::string functions("\xCA\x01\x01x", 4), sparse("\x7A\x01x", 3);  // fields 25 and 15
  const std::string number("\x15\x00\x00\xC0\x3F", 5), type_float("\xA0\x01\x01", 3);
  const std::pair<const char*, std::string> cases[]{
      {"functions in a ModelProto", functions},
      {"sparse_initializer in a GraphProto", field(7, sparse)},
      {"float_data in a TensorProto", weight(field(4, "1234"))},
      {"overload in a NodeProto", model_with(1, field(8, "x"))},
      {"a text in a AttributeProto", attribute(field(4, "x"))},
      {"a graph in a AttributeProto", attribute(field(6, "x"))},
      {"the field 9 in a TypeProto", model_with(11, field(2, field(9, "x")))},
      {"the attribute 'a' has another value", attribute(varint(3, 1) + type_float)},
      {"the attribute 'a' has another value", attribute(varint(3, 1) + number)},
      {"the attribute 'a' is given twice",
       model_with(1, field(5, field(1, "a") + varint(3, 1)) + field(5, field(1, "a") + varint(3, 2)))},
      {"of another type than ONNX gives it", model_with(1, varint(4, 1))},
      {"of another type than ONNX gives it", varint(7, 1)},
      {"the operators of '' is given twice", field(8, varint(2, 21)) + field(8, varint(2, 20))},
  };
  for (const auto& [message, model] : cases) EXPECT_THAT(error_of([&] { parse(model); }), HasSubstr(message));
}

// Programs believe data_location, and not what stands beside it.
TEST(OnnxWire, RefusesDataThatLieElsewhereThanItSays) {
  const std::string file = entry("location", "d") + entry("length", "2");
  for (const std::string& fields :
       {file, varint(14, 0) + file, varint(14, 1), varint(14, 1) + field(9, "ab"), varint(14, 1) + entry("length", "2"),
        varint(14, 1) + file + field(9, "ab"), file + field(9, "ab"), field(9, "ab") + entry("offset", "2"),
        varint(14, 1) + entry("location", "")})
    EXPECT_THAT(error_of([&] { parse(weight(fields)); }), HasSubstr("'w' says that its data lie elsewhere"));
  EXPECT_THAT(error_of([&] { parse(weight(varint(14, 1) + file + entry("location", "e"))); }),
              HasSubstr("the location of a weight is given twice"));
  EXPECT_EQ(parse(weight(varint(14, 0) + field(9, "ab"))).initializers.at("w").raw, "ab");
}

TEST(OnnxWire, NamesANodeWithoutAName) {
  const auto label = [](const std::string& node) { return label_of(parse(model_with(1, node)).nodes.at(0)); };
  EXPECT_EQ(label(field(3, "layers.0/Add") + field(4, "Add") + field(2, "y")), "layers.0/Add");
  EXPECT_EQ(label(field(4, "Add") + field(2, "y") + field(2, "z")), "Add of 'y'");
  EXPECT_EQ(label(field(4, "Add")), "Add of ''");
}

}  // namespace
}  // namespace retort
