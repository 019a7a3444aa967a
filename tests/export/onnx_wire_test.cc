// The reader of ONNX files on bytes written by hand from the protobuf encoding, and on damaged ones.
#include "export/verify/onnx_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace retort {
namespace {

using ::testing::ElementsAre;

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
                             entry("location", "d") + entry("offset", "64") + entry("length", "1024");
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

}  // namespace
}  // namespace retort
