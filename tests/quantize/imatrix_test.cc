// Importance matrices: llama.cpp's files read and written. What they do to a model: importance_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "quantize/imatrix_file.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const fs::path kSmall = RETORT_SOURCE_DIR "/tests/fuzz/corpus/imatrix";  // by the gguf package, and byte by byte
const fs::path kReal = RETORT_SOURCE_DIR "/../shared/data/quantized/gguf/books-5.8m.imatrix.gguf";

std::string refusal(const fs::path& path) {
  try {
    read_imatrix(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Imatrix, BothFormsGiveMeansOfSquares) {
  for (const char* name : {"small.gguf", "small.dat"}) {
    const ImportanceMatrix matrix = read_imatrix(kSmall / name);
    ASSERT_EQ(matrix.entries.size(), 1u) << name;  // stacked experts are left out
    EXPECT_THAT(matrix.entries.at("blk.0.attn_q.weight").mean_square(), ElementsAre(1, 2, 0)) << name;
    EXPECT_THAT(matrix.texts, ElementsAre("a.txt")) << name;
    EXPECT_EQ(matrix.windows, 2) << name;
  }
  EXPECT_EQ(read_imatrix(kSmall / "small.gguf").entries.at("blk.0.attn_q.weight").tokens, 8);
  EXPECT_EQ(read_imatrix(kSmall / "small.gguf").window_tokens, 4);
  EXPECT_EQ(read_imatrix(kSmall / "bare-small.dat").windows, 0);
}

// Entries; name, calls, columns, means of squares times calls; calls in total and the text.
TEST(Imatrix, TheBinaryFormIsWrittenAsItIsRead) {
  const testing::TempDir temp;
  const ImportanceMatrix matrix = read_imatrix(kSmall / "small.gguf");
  write_imatrix(temp.path() / "written.dat", matrix);
  const std::string bytes = read_text_file(temp.path() / "written.dat");
  const std::string expected(
      "\1\0\0\0\x13\0\0\0blk.0.attn_q.weight\2\0\0\0\3\0\0\0"
      "\0\0\0\x40\0\0\x80\x40\0\0\0\0\2\0\0\0\5\0\0\0a.txt",
      60);
  EXPECT_EQ(bytes, expected);
  const ImportanceMatrix again = read_imatrix(temp.path() / "written.dat");
  EXPECT_THAT(again.entries.at("blk.0.attn_q.weight").mean_square(), ElementsAre(1, 2, 0));
  EXPECT_EQ(again.windows, 2);
  EXPECT_EQ(again.texts, matrix.texts);
}

TEST(Imatrix, WhatIsNoImportanceMatrixIsRefused) {
  EXPECT_THAT(refusal(kSmall / "model-small.gguf"), HasSubstr("general.type"));
  EXPECT_THAT(refusal(kSmall / "other-small.gguf"), HasSubstr("'blk.0.attn_q.weight.counts' is missing"));
  for (const char* name : {"nan-small.gguf", "negative-small.gguf"})
    EXPECT_THAT(refusal(kSmall / name), HasSubstr("no sums of squares")) << name;
  EXPECT_THAT(refusal(kSmall / "idle-small.dat"), HasSubstr("no importance of any matrix"));
  for (const char* name : {"cut-small.dat", "entries-small.dat", "huge-small.dat"})
    EXPECT_THAT(refusal(kSmall / name), HasSubstr("cut short")) << name;
  EXPECT_THAT(refusal(kSmall / "negative-small.dat"), HasSubstr("negative"));
}

TEST(Imatrix, AFileOfLlamaCppIsWrittenAgainWithTheSameContent) {
  if (!fs::exists(kReal)) GTEST_SKIP() << "the data " << kReal << " is absent";
  const ImportanceMatrix matrix = read_imatrix(kReal);
  EXPECT_EQ(matrix.entries.size(), 42u);
  EXPECT_EQ(matrix.windows, 531);
  EXPECT_EQ(matrix.entries.at("blk.0.attn_k.weight").tokens, 531 * 256);
  EXPECT_FLOAT_EQ(matrix.entries.at("blk.0.attn_k.weight").mean_square()[0], 42513.207f / 135936);
  const testing::TempDir temp;
  write_imatrix(temp.path() / "again", matrix);
  const GgufFile original(kReal), again(temp.path() / "again");
  ASSERT_EQ(again.header().tensors.size(), original.header().tensors.size());
  for (const char* key : {"imatrix.chunk_count", "imatrix.chunk_size"})
    EXPECT_EQ(*again.header().find(key), *original.header().find(key));
  EXPECT_EQ(*again.header().strings("imatrix.datasets"), *original.header().strings("imatrix.datasets"));
  for (const GgufTensorInfo& info : original.header().tensors) {
    const GgufTensorInfo* mine = again.header().find_tensor(info.name);
    ASSERT_NE(mine, nullptr) << info.name;
    EXPECT_EQ(mine->type, info.type);
    std::vector<float> expected(info.bytes / 4), written(mine->bytes / 4);
    std::memcpy(expected.data(), original.data(info).data(), info.bytes);
    std::memcpy(written.data(), again.data(*mine).data(), mine->bytes);
    EXPECT_EQ(written, expected) << info.name;
  }
}

}  // namespace
}  // namespace retort
