// Checkpoints that other programs quantized, written into every other format: the same integers, or a refusal that
// names a format that holds them; and their logits, as transformers computes them from the dequantized weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/safetensors.h"
#include "export/exporter.h"
#include "export/rope_settings.h"
#include "export/verifier.h"
#include "runtime/engine.h"
#include "tests/export/quantized_model.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TempDir;

const fs::path kSamples = RETORT_SOURCE_DIR "/../shared/data/quantized";

ThreadPool& pool() {
  static ThreadPool threads(1);
  return threads;
}
ProgressSink g_silent;
Context g_context{pool(), g_silent};

// What a format says of a sample: nothing, or a part of its refusal.
struct Target {
  const char *format, *refusal;
};
struct Sample {
  const char* name;
  std::vector<Target> targets;
};

std::vector<Sample> samples() {
  const std::vector<Target> all{{"gguf", ""}, {"onnx", ""}, {"gptq", ""}, {"awq", ""}, {"compressed-tensors", ""},
                                {"mlx", ""}};
  const std::vector<Target> scattered{{"gguf", "activation order. Use --format gptq"},
                                      {"onnx", "MatMulNBits. Use --format gptq"},
                                      {"gptq", ""},
                                      {"awq", "GEMM layout. Use --format gptq"},
                                      {"compressed-tensors", "activation order. Use --format gptq"},
                                      {"mlx", "Use --format gptq"}};
  return {{"gptqmodel-gptq", all},
          {"gptqmodel-gptq-v2-desc-act", scattered},
          {"gptqmodel-awq", all},
          {"llmcompressor-gptq", all},
          {"llmcompressor-awq", all}};
}

std::vector<float> values_of(const SafetensorsFile& file, const TensorInfo& info) {
  std::vector<float> values(info.bytes / size_of(info.dtype));
  decode_to_f32(info.dtype, file.data(info), values);
  return values;
}

std::string export_error(const ModelSource& source, const fs::path& path, const char* format) {
  try {
    if (export_format(format).directory) fs::create_directories(path);
    export_model(source, path, {.format = format, .type = {}}, g_context);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

TEST(Conversion, KeepsTheIntegersOfOtherPrograms) {
  if (!fs::exists(kSamples)) GTEST_SKIP() << "the samples of other programs' checkpoints are absent: " << kSamples;
  for (const Sample& sample : samples()) {
    const auto source = open_model(kSamples / sample.name);
    for (const Target& target : sample.targets) {
      SCOPED_TRACE(std::string(sample.name) + " to " + target.format);
      TempDir dir;
      const fs::path path = dir.path() / target.format;
      const std::string error = export_error(*source, path, target.format);
      if (*target.refusal != '\0') {
        EXPECT_THAT(error, HasSubstr(target.refusal));
        continue;
      }
      ASSERT_EQ(error, "");
      const VerifyResult result = verify_artifact(path, *source, g_context);
      EXPECT_TRUE(result.equal()) << ::testing::PrintToString(result.differences);
    }
  }
}

// Written in the format that it came in, a sample has the tensors that the other program wrote, byte for byte.
TEST(Conversion, WritesTheTensorsOfOtherProgramsAgain) {
  if (!fs::exists(kSamples)) GTEST_SKIP() << "the samples of other programs' checkpoints are absent: " << kSamples;
  for (const Sample& sample : samples()) {
    const auto source = open_model(kSamples / sample.name);
    TempDir dir;
    const std::string format(source->container());
    ASSERT_EQ(export_error(*source, dir.path() / "again", format.c_str()), "");
    const SafetensorsFile theirs(kSamples / sample.name / "model.safetensors"),
        ours(dir.path() / "again" / "model.safetensors");
    ASSERT_EQ(ours.tensors().size(), theirs.tensors().size());
    for (const TensorInfo& expected : theirs.tensors()) {
      SCOPED_TRACE(std::string(sample.name) + " " + expected.name);
      const auto found = std::ranges::find(ours.tensors(), expected.name, &TensorInfo::name);
      ASSERT_NE(found, ours.tensors().end());
      EXPECT_EQ(found->shape, expected.shape);
      if (found->dtype == expected.dtype) {
        EXPECT_TRUE(std::ranges::equal(ours.data(*found), theirs.data(expected)));
        continue;
      }
      // GPTQModel writes the scales of AWQ in the model's type; the layout's own is F16.
      ASSERT_TRUE(expected.name.ends_with(".scales") && format == "awq");
      EXPECT_EQ(values_of(ours, *found), values_of(theirs, expected));
    }
  }
}

// A copy of the sample in which one scale of `module` is another number, which its own type holds.
void write_with_scale(const fs::path& copy, const char* sample, const std::string& module, float scale) {
  fs::copy(kSamples / sample, copy);
  const SafetensorsFile file(kSamples / sample / "model.safetensors");
  fs::remove(copy / "model.safetensors");
  SafetensorsWriter writer(copy);
  for (const TensorInfo& info : file.tensors()) {
    std::vector<std::byte> bytes(file.data(info).begin(), file.data(info).end());
    if (info.name == module + ".weight_scale")
      encode_from_f32(info.dtype, {&scale, 1}, std::span(bytes).first(size_of(info.dtype)));
    writer.add(info.name, info.dtype, info.shape, bytes);
  }
  writer.finish();
}

// The integers of other programs that have a scale which is no f16 number: refused like all that a format cannot hold.
TEST(Conversion, RefusesScalesThatF16DoesNotHold) {
  if (!fs::exists(kSamples)) GTEST_SKIP() << "the samples of other programs' checkpoints are absent: " << kSamples;
  const std::string module = "model.layers.1.mlp.up_proj";
  for (const float scale : {1e5f, 1e-7f}) {
    TempDir dir;
    write_with_scale(dir.path() / "model", "llmcompressor-gptq", module, scale);
    const auto source = open_model(dir.path() / "model");
    for (const char* format : {"gguf", "onnx", "gptq", "awq", "compressed-tensors", "mlx"}) {
      SCOPED_TRACE(std::string(format) + " " + std::to_string(scale));
      const std::string error = export_error(*source, dir.path() / "refused", format);
      EXPECT_THAT(error, HasSubstr(module + ".weight: " + format + " cannot hold it exactly: some of its scales"));
      EXPECT_THAT(error, HasSubstr("Use --format hf, or --fallback f32"));
      const fs::path path = dir.path() / format;
      if (export_format(format).directory) fs::create_directories(path);
      const ExportSummary made =
          export_model(*source, path, {.format = format, .type = {}, .fallback = DType::kF32}, g_context);
      ASSERT_EQ(made.fallbacks.size(), 1u);
      EXPECT_EQ(made.fallbacks.front().first, module + ".weight");
      const VerifyResult result = verify_artifact(path, *source, g_context);
      EXPECT_TRUE(result.equal()) << ::testing::PrintToString(result.differences);
      EXPECT_EQ(result.fallbacks_recorded, 1);
      EXPECT_EQ(result.integers_as_values, 1);
    }
    EXPECT_EQ(export_error(*source, dir.path() / "hf", "hf"), "");
  }
}

TEST(Conversion, GivesTheLogitsOfTheDequantizedWeights) {
  if (!fs::exists(kSamples)) GTEST_SKIP() << "the samples of other programs' checkpoints are absent: " << kSamples;
  for (const Sample& sample : samples()) {
    SCOPED_TRACE(sample.name);
    const Json golden =
        read_json_file(fs::path(RETORT_SOURCE_DIR "/tests/golden/quantized") / (std::string(sample.name) + ".json"));
    const auto source = open_model(kSamples / sample.name);
    EngineOptions options;
    options.float_math = true;
    const auto engine = load_engine(*source, options, g_context);
    const auto ids = golden["ids"].get<std::vector<int32_t>>();
    const auto count = static_cast<int64_t>(ids.size()), every = golden["every"].get<int64_t>();
    const auto session = engine->new_session(count);
    std::vector<float> logits(ids.size() * static_cast<size_t>(source->config().vocab_size));
    engine->forward(*session, ids, count, logits);
    // Float32 sums in another order.
    const float tolerance = 1e-5f * golden["largest"].get<float>();
    for (int64_t t = 0; t < count; ++t) {
      const auto expected = golden["logits"][static_cast<size_t>(t)].get<std::vector<float>>();
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(logits[static_cast<size_t>(t * source->config().vocab_size + static_cast<int64_t>(i) * every)],
                    expected[i], tolerance)
            << t << " " << i;
    }
  }
}

std::unique_ptr<ModelSource> gguf_with_rope(const fs::path& directory, const Json& rope) {
  testing::TinyModel model;
  model.ffn_size = 128;
  model.extra["rope_parameters"] = rope;
  const auto source = testing::quantized_model(directory / "source", model, "int4-g32-sym");
  EXPECT_EQ(export_error(*source, directory / "a.gguf", "gguf"), "");
  return open_model(directory / "a.gguf");
}

const Json kLlama3{{"rope_theta", 10000.0},  {"rope_type", "llama3"},   {"factor", 8.0},
                   {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 32}};

// What config.json can say of rotary frequencies, it says when a GGUF file becomes a directory.
TEST(GgufToDirectory, SaysTheScalingOfRotaryFrequencies) {
  const Json linear{{"rope_theta", 10000.0}, {"rope_type", "linear"}, {"factor", 4.0}};
  const Json yarn{
      {"rope_theta", 10000.0}, {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}};
  for (const Json& rope : {linear, yarn, kLlama3}) {
    TempDir dir;
    const auto source = gguf_with_rope(dir.path(), rope);
    for (const char* format : {"hf", "gptq", "mlx"}) {
      const fs::path path = dir.path() / format;
      ASSERT_EQ(export_error(*source, path, format), "");
      EXPECT_TRUE(verify_artifact(path, *source, g_context).equal());
      const Json written = read_json_file(path / "config.json")["rope_parameters"];
      for (const auto& [key, value] : rope.items()) EXPECT_EQ(written[key], value) << key;
    }
  }
}

// As llama.cpp's converter computes them, in float32: those of Llama 3.1 and 3.2.
TEST(GgufToDirectory, KnowsTheFactorsOfLlama3) {
  for (const auto& [head_dim, factor] : {std::pair(128, 8.0), std::pair(128, 32.0), std::pair(64, 32.0)}) {
    ModelConfig config;
    config.head_dim = head_dim;
    config.rope.theta = 500000.0;
    config.rope.scaling = RopeScaling::kFactors;
    for (int i = 0; i < head_dim; i += 2) {
      const float frequency = 1.0f / std::pow(500000.0f, static_cast<float>(i) / static_cast<float>(head_dim));
      const float turns = 8192.0f / (6.2831855f / frequency), smooth = (turns - 1) / 3;
      const float between = 1 / ((1 - smooth) / static_cast<float>(factor) + smooth);
      config.rope.factors.push_back(turns > 4 ? 1 : turns < 1 ? factor : between);
    }
    const Json settings = llama3_settings(config);
    ASSERT_FALSE(settings.is_null()) << head_dim << " " << factor;
    EXPECT_EQ(settings["factor"], factor);
    EXPECT_EQ(settings["original_max_position_embeddings"], 8192);
    config.rope.factors[static_cast<size_t>(head_dim) / 4] *= 1.00001;
    EXPECT_TRUE(llama3_settings(config).is_null());
  }
}

TEST(GgufToDirectory, RefusesFactorsThatNoFormulaGives) {
  for (const char* key : {"high_freq_factor", "original_max_position_embeddings"}) {
    TempDir dir;
    Json rope = kLlama3;
    rope[key] = key[0] == 'h' ? Json(5.0) : Json(48);
    const auto source = gguf_with_rope(dir.path(), rope);
    EXPECT_THAT(export_error(*source, dir.path() / "hf", "hf"), HasSubstr("config.json cannot say"));
    EXPECT_TRUE(fs::is_empty(dir.path() / "hf"));
  }
}

TEST(GgufToDirectory, WritesTheFilesOfTheTokenizer) {
  TempDir dir;
  const auto source = gguf_with_rope(dir.path(), {{"rope_theta", 10000.0}, {"rope_type", "default"}});
  ASSERT_EQ(export_error(*source, dir.path() / "hf", "hf"), "");
  const Json generation = read_json_file(dir.path() / "hf/generation_config.json");
  EXPECT_EQ(generation["eos_token_id"], 257);
  EXPECT_EQ(open_tokenizer(dir.path() / "hf")->encode("a<s>b"), source->tokenizer()->encode("a<s>b"));
}

}  // namespace
}  // namespace retort
