// The safetensors container, with files made by hand here: nothing is shared with our writer.
#include "core/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

#include "core/base/error.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;

std::string file_of(const std::string& header, const std::string& data, int64_t length = -1) {
  const uint64_t size = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string text(8, '\0');
  std::memcpy(text.data(), &size, 8);
  return text + header + data;
}

std::string error_of(const std::string& file) {
  try {
    parse_safetensors_header(std::as_bytes(std::span(file)), file.size(), "x.safetensors", nullptr);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

const char* const kGood =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}  )";

TEST(Safetensors, ReadsAFileMadeByHand) {
  const std::string file = file_of(kGood, "12345678");
  SortedJson metadata;
  const auto tensors =
      parse_safetensors_header(std::as_bytes(std::span(file)), file.size(), "x.safetensors", &metadata);
  EXPECT_EQ(metadata["format"], "pt");
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].dtype, DType::kF32);
  EXPECT_TRUE(tensors[0].shape.empty());
  EXPECT_EQ(tensors[0].offset, file.size() - 8);
  EXPECT_EQ(tensors[1].name, "e");
  EXPECT_EQ(tensors[2].name, "b");
  EXPECT_EQ(tensors[2].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(tensors[2].bytes, 4u);
}

// Written by the safetensors package (tests/oracles/make_fuzz_corpus.py).
TEST(Safetensors, ReadsAFileOfAnotherWriter) {
  const SafetensorsFile file(RETORT_SOURCE_DIR "/tests/fuzz/corpus/safetensors/small.safetensors");
  EXPECT_EQ(file.metadata()["format"], "pt");
  ASSERT_EQ(file.tensors().size(), 4u);
  const std::map<std::string, std::vector<float>> expected{
      {"a.weight", {0, 1, 2, 3, 4, 5}}, {"b", {1, 1, 1, 1}}, {"c", {}}, {"d", {3}}};
  for (const TensorInfo& info : file.tensors()) {
    std::vector<float> values(info.bytes / size_of(info.dtype));
    decode_to_f32(info.dtype, file.data(info), values);
    EXPECT_EQ(values, expected.at(info.name)) << info.name;
  }
}

TEST(Safetensors, AFileCutAtAnyByteIsRefused) {
  const std::string file = file_of(kGood, "12345678");
  ASSERT_EQ(error_of(file), "no error");
  for (size_t size = 0; size < file.size(); ++size) EXPECT_NE(error_of(file.substr(0, size)), "no error") << size;
  EXPECT_THAT(error_of(file + "9"), HasSubstr("belong to no tensor"));
}

// 200,000 tensors: a header whose parsing takes the square of its keys would not end.
TEST(Safetensors, ReadsVeryManyTensors) {
  std::string header = "{";
  for (int i = 0; i < 200'000; ++i)
    header += (i == 0 ? "\"t" : ",\"t") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_EQ(error_of(file_of(header + "}", "")), "no error");
}

TEST(Safetensors, HostileHeadersAreRefusedWithTheReason) {
  const auto one = [](const std::string& entry, const std::string& data) {
    return error_of(file_of("{\"a\":" + entry + "}", data));
  };
  EXPECT_THAT(error_of(file_of("{}", "", 200'000'000)), HasSubstr("100 MB"));
  EXPECT_THAT(error_of(file_of("{}", "", 3)), HasSubstr("does not fit in the file"));
  EXPECT_THAT(error_of(file_of("{}", "", INT64_MAX)), HasSubstr("100 MB"));
  EXPECT_THAT(error_of(file_of("[]", "")), HasSubstr("begin with"));
  EXPECT_THAT(error_of(file_of("{\"a\":1}", "")), HasSubstr("not an object"));
  EXPECT_THAT(error_of(file_of("{\"a", "")), HasSubstr("json"));
  EXPECT_THAT(error_of(file_of("{\"a\xff\":1}", "")), HasSubstr("json"));
  EXPECT_THAT(error_of(file_of("{\"__metadata__\":{\"a\":1}}", "")), HasSubstr("not a text"));
  EXPECT_THAT(error_of(file_of("{\"__metadata__\":3}", "")), HasSubstr("not an object"));
  EXPECT_THAT(error_of(file_of("{\"a\":" + std::string(100000, '[') + "}", "")), HasSubstr("levels deep"));
  EXPECT_THAT(error_of(file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                               R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                               "12")),
              HasSubstr("given twice"));
  EXPECT_THAT(one(R"({"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]})", "1"), HasSubstr("F8_E4M3"));
  EXPECT_THAT(one(R"({"dtype":7,"shape":[1],"data_offsets":[0,1]})", "1"), HasSubstr("wrong type"));
  EXPECT_THAT(one(R"({"shape":[1],"data_offsets":[0,1]})", "1"), HasSubstr("missing"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})", "1"), HasSubstr("-1"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})", "1"), HasSubstr("1.0"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[true],"data_offsets":[0,1]})", "1"), HasSubstr("true"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})", "1"), HasSubstr("not a list"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]})", "1"),
              HasSubstr("not a size"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", ""),
              HasSubstr("overflow"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[2],"data_offsets":[0,1]})", "1"), HasSubstr("does not fit its shape"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})", "1"), HasSubstr("beyond"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})", "1"), HasSubstr("not a range"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[1],"data_offsets":[0]})", "1"), HasSubstr("not a range"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})", "12"), HasSubstr("gap"));
  EXPECT_THAT(error_of(file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                               R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                               "123")),
              HasSubstr("overlaps"));
}

std::string text_of(const fs::path& path) { return read_text_file(path); }

TEST(SafetensorsWriter, WritesTheBytesOfTheFormat) {
  const TempDir dir;
  SafetensorsWriter writer(dir.path());
  const std::string data = "abcdefgh";
  const auto bytes = std::as_bytes(std::span(data));
  writer.add("x", DType::kF32, {1}, bytes.first(4));
  writer.begin("y.\"z\"", DType::kF16, {2, 1});
  writer.append(bytes.subspan(4, 1));
  writer.append(bytes.subspan(5));
  EXPECT_EQ(writer.data_bytes(), 8u);
  EXPECT_FALSE(fs::exists(dir.path() / "model.safetensors"));
  writer.finish();
  std::string header = R"({"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                       R"("y.\"z\"":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(text_of(dir.path() / "model.safetensors"), file_of(header, data));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(SafetensorsWriter, StreamsLargeFilesBehindAPaddedHeader) {
  const TempDir dir;
  std::string data(size_t{5} << 20, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 2654435761u >> 13);
  SafetensorsWriter writer(dir.path());
  for (int i = 0; i < 4; ++i)
    writer.add("t" + std::to_string(i), DType::kU8, {static_cast<int64_t>(data.size())},
               std::as_bytes(std::span(data)));
  writer.finish();
  const SafetensorsFile file(dir.path() / "model.safetensors");
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.tensors()[0].offset % 8, 0u);
  for (const TensorInfo& info : file.tensors())
    EXPECT_EQ(std::memcmp(file.data(info).data(), data.data(), data.size()), 0) << info.name;
}

TEST(SafetensorsWriter, ShardsNameEachOtherAndTheIndexComesLast) {
  const TempDir dir;
  SafetensorsWriter writer(dir.path(), 10);
  const std::string data = "0123456789abcdef";
  const auto bytes = std::as_bytes(std::span(data));
  writer.add("a", DType::kU8, {6}, bytes.first(6));
  writer.add("b", DType::kU8, {4}, bytes.first(4));
  writer.add("c", DType::kU8, {16}, bytes);  // larger than a shard
  writer.add("d", DType::kU8, {1}, bytes.first(1));
  EXPECT_FALSE(fs::exists(dir.path() / "model.safetensors.index.json"));
  writer.finish();
  const Json index = read_json_file(dir.path() / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 27);
  EXPECT_EQ(index["weight_map"].dump(),
            R"({"a":"model-00001-of-00003.safetensors","b":"model-00001-of-00003.safetensors",)"
            R"("c":"model-00002-of-00003.safetensors","d":"model-00003-of-00003.safetensors"})");
  EXPECT_EQ(SafetensorsFile(dir.path() / "model-00001-of-00003.safetensors").tensors().size(), 2u);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 4);
}

TEST(SafetensorsWriter, LeavesNothingBehindWithoutFinish) {
  const TempDir dir;
  const std::string data(size_t{17} << 20, 'x');
  {
    SafetensorsWriter writer(dir.path());
    writer.add("a", DType::kU8, {static_cast<int64_t>(data.size())}, std::as_bytes(std::span(data)));
    EXPECT_FALSE(fs::is_empty(dir.path()));
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

// Whether it was still in memory or already in the file, with a shard of its own or not.
TEST(SafetensorsWriter, WhatWasDroppedLeavesNoTrace) {
  const std::string data(size_t{17} << 20, 'x');
  const auto bytes = std::as_bytes(std::span(data));
  const auto written = [&](size_t before, uint64_t shard, bool drop) {
    const TempDir dir;
    SafetensorsWriter writer(dir.path(), shard);
    writer.add("before", DType::kU8, {static_cast<int64_t>(before)}, bytes.first(before));
    if (drop) {
      writer.begin("x", DType::kU8, {1 << 20});
      writer.append(bytes.first(100));
      writer.drop();
      EXPECT_EQ(writer.data_bytes(), before);
    }
    writer.add("x", DType::kF16, {1, 2}, std::as_bytes(std::span("wxyz", 4)));
    writer.finish();
    std::string all;
    for (const auto& entry : std::set<fs::path>(fs::directory_iterator(dir.path()), {}))
      all += entry.filename().string() + read_text_file(entry);
    return all;
  };
  for (const size_t before : {size_t{1} << 10, data.size()})
    EXPECT_TRUE(written(before, uint64_t{1} << 30, true) == written(before, uint64_t{1} << 30, false)) << before;
  EXPECT_TRUE(written(size_t{1} << 20, 1 << 20, true) == written(size_t{1} << 20, 1 << 20, false));
}

TEST(SafetensorsWriter, RefusesWrongUse) {
  const TempDir dir;
  SafetensorsWriter writer(dir.path());
  const std::string data = "abcd";
  const auto bytes = std::as_bytes(std::span(data));
  writer.add("a", DType::kU8, {4}, bytes);
  EXPECT_THROW(writer.add("a", DType::kU8, {4}, bytes), Error);
  writer.begin("c", DType::kU8, {5});
  writer.append(bytes);
  EXPECT_THROW(writer.finish(), Error);
  EXPECT_THROW(writer.append(bytes), Error);
}

}  // namespace
}  // namespace retort
