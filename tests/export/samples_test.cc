// verify reads the checkpoints that other programs wrote: each is equal to itself, and a copy in which one scale or one
// code is another is not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "core/checkpoint/gguf.h"
#include "core/checkpoint/safetensors.h"
#include "export/verifier.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

ThreadPool& pool() {
  static ThreadPool threads(2);
  return threads;
}
ProgressSink g_silent;
Context g_context{pool(), g_silent};

const fs::path kSamples = RETORT_SOURCE_DIR "/../shared/data/quantized";

std::vector<fs::path> samples() {
  std::vector<fs::path> paths;
  for (const fs::path& directory : {kSamples, kSamples / "gguf"})
    for (const auto& entry : fs::directory_iterator(directory))
      if (fs::exists(entry.path() / "config.json") ||
          (entry.path().extension() == ".gguf" && entry.path().stem().extension() != ".imatrix"))
        paths.push_back(entry.path());
  std::ranges::sort(paths);
  return paths;
}

// Where bytes of codes, and then of scales, lie in a directory.
std::vector<uint64_t> places_in(const SafetensorsFile& file) {
  std::vector<uint64_t> places;
  for (const char* part : {"qweight", "weight_packed", "scales", "weight_scale"})
    for (const TensorInfo& info : file.tensors())
      if (info.name == std::string("model.layers.1.mlp.down_proj.") + part) places.push_back(info.offset + 4);
  return places;
}

// Of the first block of a matrix: scales at one end, codes at the other, whichever type it has.
std::vector<uint64_t> places_in(const GgufFile& file) {
  const GgufTensorInfo* info = file.header().find_tensor("blk.1.ffn_down.weight");
  return {info->offset, info->offset + 16};
}

void flip(const fs::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x11);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

TEST(Samples, AreEqualToThemselvesAndToNothingElse) {
  if (!fs::exists(kSamples)) GTEST_SKIP() << "the samples of other programs' checkpoints are absent: " << kSamples;
  ASSERT_THAT(samples(), ::testing::SizeIs(10));
  for (const fs::path& sample : samples()) {
    SCOPED_TRACE(sample.filename());
    TempDir dir;
    const fs::path copy = dir.path() / sample.filename();
    fs::copy(sample, copy);
    const auto model = open_model(sample);
    const VerifyResult same = verify_artifact(copy, *model, g_context);
    EXPECT_TRUE(same.equal()) << ::testing::PrintToString(same.differences);
    EXPECT_THAT(same.differences, ::testing::IsEmpty());
    EXPECT_EQ(same.tensors_as_integers, std::ranges::count_if(model->tensors(), &ModelTensor::stores_integers));
    const bool gguf = sample.extension() == ".gguf";
    const fs::path weights = gguf ? copy : copy / "model.safetensors";
    const auto places = gguf ? places_in(GgufFile(sample)) : places_in(SafetensorsFile(sample / "model.safetensors"));
    ASSERT_EQ(places.size(), 2u);
    for (const uint64_t place : places) {
      flip(weights, place);
      const VerifyResult other = verify_artifact(copy, *model, g_context);
      EXPECT_GT(other.codes_different + other.scales_different, 0) << place;
      EXPECT_FALSE(other.equal());
      flip(weights, place);
    }
  }
}

// The model has the numbers that the integers of such a matrix stand for: these are compared.
TEST(Samples, MayHaveAScaleThatF16DoesNotHold) {
  if (!fs::exists(kSamples)) GTEST_SKIP() << "the samples of other programs' checkpoints are absent: " << kSamples;
  for (const char* name : {"gptqmodel-awq", "llmcompressor-gptq"}) {
    TempDir dir;
    const fs::path path = dir.path() / name;
    fs::copy(kSamples / name, path);
    const uint64_t scale = places_in(SafetensorsFile(path / "model.safetensors")).back();
    flip(path / "model.safetensors", scale + 1);  // bits of the exponent of a BF16 number
    const auto model = open_model(path);
    ASSERT_FALSE(model->at("model.layers.1.mlp.down_proj.weight").integers_lost.empty());
    const VerifyResult same = verify_artifact(path, *model, g_context);
    EXPECT_TRUE(same.equal()) << ::testing::PrintToString(same.differences);
    EXPECT_GT(verify_artifact(kSamples / name, *model, g_context).values_different, 0);
  }
}

}  // namespace
}  // namespace retort
