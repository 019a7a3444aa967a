// The logits of an artifact, from what verify itself reads of it: those of its model, and others as soon as a number
// or a setting is another.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "core/base/files.h"
#include "core/checkpoint/safetensors.h"
#include "export/exporter.h"
#include "export/verifier.h"
#include "export/verify/plain_logits.h"
#include "tests/export/quantized_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;
using testing::TinyModel;

ThreadPool& pool() {
  static ThreadPool threads(2);
  return threads;
}
ProgressSink g_silent;
Context g_context{pool(), g_silent};

constexpr double kOrderOfAdditions = 1e-5, kAnotherModel = 1e-3;  // of the largest logit

TinyModel shape(const char* family = "llama") {
  TinyModel model;
  model.model_type = family;
  model.ffn_size = 128;
  return model;
}

fs::path exported(const fs::path& path, const ModelSource& source, const ExportOptions& options) {
  if (export_format(options.format).directory) fs::create_directories(path);
  export_model(source, path, options, g_context);
  return path;
}

// The largest, in parts of the largest logit.
double difference(const fs::path& artifact, const ModelSource& model) {
  std::vector<int32_t> ids(8);
  std::iota(ids.begin(), ids.end(), 5);
  const auto expected = plain_logits(model, ids, g_context);
  const auto found = artifact_logits(artifact, model.config(), ids, g_context);
  EXPECT_EQ(found.size(), expected.size());
  double most = 0, largest = 0;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    most = std::max(most, std::abs(static_cast<double>(expected[i]) - found[i]));
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return most / largest;
}

TEST(ArtifactLogits, AreThoseOfTheModel) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    TempDir dir;
    const auto source = testing::quantized_model(dir.path(), shape(family), "int4-g32-asym");
    for (const ExportOptions& options : std::vector<ExportOptions>{{.format = "gguf", .type = {}},
                                                                   {.format = "gguf", .type = DType::kF32},
                                                                   {.format = "onnx", .type = {}},
                                                                   {.format = "gptq", .type = {}},
                                                                   {.format = "awq", .type = {}},
                                                                   {.format = "compressed-tensors", .type = {}},
                                                                   {.format = "mlx", .type = {}},
                                                                   {.format = "hf", .type = {}}}) {
      const fs::path path = dir.path() / (options.format + (options.type ? "-dense" : ""));
      EXPECT_LT(difference(exported(path, *source, options), *source), kOrderOfAdditions) << family << path;
    }
  }
}

// The last byte of the first element of a tensor of F16: its sign is turned.
void turn_sign(const fs::path& weights, std::string_view name) {
  uint64_t offset = 0;
  {
    const SafetensorsFile file(weights);
    const auto info = std::ranges::find(file.tensors(), name, &TensorInfo::name);
    ASSERT_NE(info, file.tensors().end());
    ASSERT_EQ(info->dtype, DType::kF16);
    offset = info->offset + 1;
  }
  std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x80);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

TEST(ArtifactLogits, OfMlxTellAnotherScaleOrBias) {
  TempDir dir;
  const auto source = testing::quantized_model(dir.path(), shape(), "int4-g32-sym", /*everything=*/true);
  for (const char* part : {"scales", "biases"})
    for (const char* module : {"model.layers.1.mlp.up_proj", "lm_head"}) {
      const std::string name = std::string(module) + "." + part;
      const fs::path path = exported(dir.path() / name, *source, {.format = "mlx", .type = {}});
      ASSERT_LT(difference(path, *source), kOrderOfAdditions);
      turn_sign(path / "model.safetensors", name);
      EXPECT_GT(difference(path, *source), kAnotherModel) << name;
    }
}

// As mlx-lm reads them: in keys of its own.
TEST(ArtifactLogits, OfMlxTellAnotherRope) {
  TempDir dir;
  TinyModel yarn = shape();
  yarn.extra["rope_parameters"] = {{"rope_type", "yarn"},
                                   {"rope_theta", 10000.0},
                                   {"factor", 4.0},
                                   {"attention_factor", 1.3},
                                   {"original_max_position_embeddings", 32}};
  const auto source = testing::quantized_model(dir.path(), yarn, "int4-g32-sym");
  const fs::path path = exported(dir.path() / "mlx", *source, {.format = "mlx", .type = {}});
  ASSERT_LT(difference(path, *source), kOrderOfAdditions);
  const Json whole = read_json_file(path / "config.json");
  for (const auto& [place, value] :
       {std::pair("/rope_theta", 500.0), {"/rope_scaling/factor", 16.0}, {"/rope_scaling/mscale", 9.0}}) {
    Json config = whole;
    ASSERT_TRUE(config.contains(Json::json_pointer(place))) << place;
    config[Json::json_pointer(place)] = value;
    write_text_file(path / "config.json", config.dump());
    EXPECT_GT(difference(path, *source), kAnotherModel) << place;
  }
}

}  // namespace
}  // namespace retort
