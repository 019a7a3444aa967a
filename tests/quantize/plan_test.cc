// Which tensor becomes what, and whole models by rtn: what the program without LibTorch does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <tuple>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/json.h"
#include "quantize/heeded.h"
#include "quantize/quantize.h"
#include "quantize/quantizer.h"
#include "quantize/rounding.h"
#include "quantize/targets.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class QuantizeByRtn : public ::testing::Test {
 protected:
  // hidden 64, FFN 160, 3 layers
  std::unique_ptr<ModelSource> model(const testing::TinyModel& shape = {}) {
    testing::write_tiny_model(temp_.path() / "model", shape);
    return open_model(temp_.path() / "model");
  }

  // The same model with weight [0] of one tensor replaced.
  std::unique_ptr<ModelSource> damaged(const ModelSource& source, const std::string& name, float value) {
    const fs::path directory = temp_.path() / "damaged";
    fs::create_directories(directory);
    ModelWriter writer(directory, source.side_files());
    for (const ModelTensor& tensor : source.tensors()) {
      std::vector<float> values = source.read_f32(tensor);
      if (tensor.name == name) values[0] = value;
      writer.add_f32(tensor.name, *tensor.scheme.dense, tensor.shape, values);
    }
    writer.finish(source.config().json, nullptr);
    return open_model(directory);
  }

  static QuantizeOptions options(const std::string& scheme) {
    QuantizeOptions result;
    result.scheme = scheme;
    return result;
  }

  QuantizeSummary quantize(const ModelSource& source, const QuantizeOptions& chosen, const std::string& output = "out",
                           int threads = 2) {
    fs::create_directories(temp_.path() / output);
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return quantize_model(source, temp_.path() / output, chosen, context);
  }

  fs::path path(const std::string& name) const { return temp_.path() / name; }

  testing::TempDir temp_;
  ProgressSink sink_;
};

std::map<std::string, std::string> schemes_of(const std::vector<TensorPlan>& plans) {
  std::map<std::string, std::string> schemes;
  for (const TensorPlan& plan : plans) schemes[plan.tensor->name] = name_of(plan.scheme);
  return schemes;
}

const std::string kQuery = "model.layers.1.self_attn.q_proj.weight", kDown = "model.layers.1.mlp.down_proj.weight",
                  kEmbedding = "model.embed_tokens.weight", kNorm = "model.layers.1.input_layernorm.weight";

TEST_F(QuantizeByRtn, IntegerSchemesLeaveEmbeddingNormsAndHead) {
  const auto source = model({.dtype = DType::kBF16});
  const auto schemes = schemes_of(plan_tensors(*source, options("int4-g32-sym")));
  EXPECT_EQ(schemes.size(), source->tensors().size());
  EXPECT_EQ(schemes.at(kQuery), "int4-g32-sym");
  EXPECT_EQ(schemes.at(kDown), "int4-g32-sym");
  EXPECT_EQ(schemes.at(kEmbedding), "bf16");
  EXPECT_EQ(schemes.at("lm_head.weight"), "bf16");
  EXPECT_EQ(schemes.at(kNorm), "bf16");
}

TEST_F(QuantizeByRtn, WideCheckpointsGetSixteenBitMatrices) {
  const auto schemes = schemes_of(plan_tensors(*model({.dtype = DType::kF32}), options("int8-channel-sym")));
  EXPECT_EQ(schemes.at(kEmbedding), "f16");
  EXPECT_EQ(schemes.at(kNorm), "f32");
}

TEST_F(QuantizeByRtn, BlockSchemesGiveTheHeadWhatLlamaQuantizeDoes) {
  // 96 columns hold no super-block: the head gets q8_0.
  for (const char* scheme : {"q4_0", "q8_0"}) {
    const auto schemes = schemes_of(plan_tensors(*model(), options(scheme)));
    EXPECT_EQ(schemes.at(kQuery), scheme);
    EXPECT_EQ(schemes.at(kEmbedding), scheme);
    EXPECT_EQ(schemes.at("lm_head.weight"), "q8_0");
  }
  const auto wide = schemes_of(plan_tensors(*model({.hidden_size = 256, .ffn_size = 512}), options("q4_0")));
  EXPECT_EQ(wide.at("lm_head.weight"), "q6_k");
}

// Files that llama-quantize made.
TEST_F(QuantizeByRtn, MixesGiveEachTensorTheTypeThatLlamaQuantizeGivesIt) {
  const fs::path shared = RETORT_SOURCE_DIR "/../shared/data";
  if (!fs::exists(shared / "quantized/gguf")) GTEST_SKIP() << "shared/data/quantized is absent";
  const auto source = open_model(shared / "weights/books-5.8m");
  for (const char* name : {"Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q6_K"}) {
    const auto theirs = open_model(shared / "quantized/gguf" / (std::string("books-5.8m-") + name + ".gguf"));
    std::string scheme = name;
    std::ranges::transform(scheme, scheme.begin(), [](unsigned char c) { return std::tolower(c); });
    for (const TensorPlan& plan : plan_tensors(*source, options(scheme))) {
      if (plan.tensor->shape.size() < 2) continue;
      EXPECT_EQ(name_of(plan.scheme), name_of(theirs->at(plan.tensor->name).scheme)) << name << plan.tensor->name;
    }
  }
}

// tests/oracles/make_mix_types.py: the layers of each rule, and keys that query heads share.
TEST_F(QuantizeByRtn, MixesOfManyLayersAreThoseOfLlamaQuantize) {
  const Json golden = read_json_file(fs::path(RETORT_SOURCE_DIR) / "tests/golden/mix_types.json");
  const Json& shape = golden["model"];
  const auto source = model({.hidden_size = shape["hidden_size"],
                             .ffn_size = shape["ffn_size"],
                             .layers = shape["layers"],
                             .heads = shape["heads"],
                             .kv_heads = shape["kv_heads"],
                             .head_dim = 32,
                             .dtype = DType::kBF16});
  for (const auto& [mix, kinds] : golden["types"].items())
    for (const TensorPlan& plan : plan_tensors(*source, options(mix))) {
      if (plan.tensor->shape.size() < 2) continue;
      const std::string name = gguf_name(*plan.rule, plan.layer), head = name.substr(0, name.rfind('.'));
      std::istringstream types(kinds.at(head.substr(head.rfind('.') + 1)).get<std::string>());
      std::string theirs;
      for (int64_t layer = 0; layer <= std::max<int64_t>(0, plan.layer); ++layer) types >> theirs;  // the last: of all
      EXPECT_EQ(name_of(plan.scheme), theirs) << mix << " " << name;
    }
}

TEST_F(QuantizeByRtn, WidthsThatNoSuperBlockDividesGetBlocksOf32) {
  const auto source = model({.ffn_size = 192});
  for (const auto& [scheme, narrow] :
       {std::pair{"q4_k", "q5_0"}, {"q5_k_m", "q5_1"}, {"q6_k", "q8_0"}, {"q3_k_s", "iq4_nl"}}) {
    const auto schemes = schemes_of(plan_tensors(*source, options(scheme)));
    EXPECT_EQ(schemes.at(kDown), narrow) << scheme;
  }
}

TEST_F(QuantizeByRtn, WidthsThatNoBlockDividesStayIn16Bit) {
  EXPECT_EQ(schemes_of(plan_tensors(*model({.ffn_size = 172}), options("q4_k_m"))).at(kDown), "f16");
}

TEST_F(QuantizeByRtn, StrictRefusesWhatWouldFallBack) {
  const auto source = model({.ffn_size = 172});
  QuantizeOptions chosen = options("int4-g32-sym");
  chosen.strict = true;
  EXPECT_THAT(message_of([&] { quantize(*source, chosen); }), HasSubstr("--strict"));
  chosen.keep = {{"*down_proj*", "bf16"}};
  EXPECT_FALSE(quantize(*source, chosen).fell_back());
  chosen.keep.clear();
  const auto whole = model();
  EXPECT_THAT(message_of([&] { quantize(*damaged(*whole, kQuery, std::nanf("")), chosen); }), HasSubstr("--strict"));
}

TEST_F(QuantizeByRtn, TargetsAreJudgedByWhatTheyLoad) {
  struct Case {
    const char *target, *scheme, *format;  // an empty format: not loaded
  };
  const auto source = model({.hidden_size = 256, .ffn_size = 512, .head_dim = 64});
  for (const Case& c :
       {Case{"vllm", "int4-g128-sym", "compressed-tensors"}, Case{"vllm", "int3-g128-sym", ""},
        Case{"vllm", "q4_k_m", ""}, Case{"llama.cpp", "q4_k_m", "gguf"}, Case{"llama.cpp", "int4-g64-sym", "gguf"},
        Case{"llama.cpp", "int4-g16-sym", ""}, Case{"onnxruntime", "int4-g32-asym", "onnx"},
        Case{"onnxruntime", "q2_k", ""}, Case{"mlx", "int4-g64-asym", "mlx"}, Case{"mlx", "int4-g16-asym", ""}}) {
    const TargetVerdict verdict = judge_target(c.target, plan_tensors(*source, options(c.scheme)));
    EXPECT_EQ(verdict.format, c.format) << c.target << " " << c.scheme;
    EXPECT_EQ(verdict.loads(), *c.format != '\0') << c.target << " " << c.scheme;
  }
  QuantizeOptions chosen = options("q4_k_m");
  chosen.target = "mlx";
  EXPECT_EQ(quantize(*source, chosen).verdict["loads"], false);
  chosen.strict = true;
  EXPECT_THAT(message_of([&] { quantize(*source, chosen, "strict"); }), HasSubstr("mlx"));
}

// vLLM makes one matrix of q, k and v, and one of gate and up.
TEST_F(QuantizeByRtn, MatricesThatATargetMakesOneMustBeOfOneScheme) {
  const auto source = model({.hidden_size = 256, .ffn_size = 512, .head_dim = 64});
  QuantizeOptions chosen = options("int4-g128-sym");
  for (const auto& [pattern, type, loads] : {std::tuple{"*v_proj.weight", "int8-g128-sym", false},
                                             {"*layers.1.mlp.gate_proj.weight", "bf16", false},
                                             {"*o_proj.weight", "int8-g128-sym", true},
                                             {"*down_proj.weight", "bf16", true}}) {
    chosen.keep = {{pattern, type}};
    const TargetVerdict verdict = judge_target("vllm", plan_tensors(*source, chosen));
    EXPECT_EQ(verdict.loads(), loads) << pattern;
    EXPECT_TRUE(judge_target("mlx", plan_tensors(*source, chosen)).loads()) << pattern;
  }
  chosen.keep = {{"*q_proj.weight", "bf16"}, {"*k_proj.weight", "f16"}, {"*v_proj.weight", "bf16"}};
  EXPECT_TRUE(judge_target("vllm", plan_tensors(*source, chosen)).loads()) << "none of them is quantized";
  chosen.keep = {{"*layers.1.*v_proj.weight", "int8-g128-sym"}};
  EXPECT_THAT(
      judge_target("vllm", plan_tensors(*source, chosen)).reasons,
      ::testing::ElementsAre("model.layers.1.self_attn.q_proj.weight and model.layers.1.self_attn.v_proj.weight: "
                             "int4-g128-sym and int8-g128-sym: they become one matrix, of one scheme"));
}

TEST_F(QuantizeByRtn, RowsThatNoGroupDividesGetTheNearestScheme) {
  const auto source = model({.ffn_size = 172, .dtype = DType::kBF16});
  for (const TensorPlan& plan : plan_tensors(*source, options("int4-g64-asym"))) {
    const bool down = plan.tensor->name.find("down_proj") != std::string::npos;
    EXPECT_EQ(plan.fallback.empty(), !down) << plan.tensor->name;
    if (!down) continue;
    EXPECT_EQ(name_of(plan.scheme), "int4-channel-asym");
    EXPECT_THAT(plan.fallback, HasSubstr("172"));
  }
  EXPECT_EQ(schemes_of(plan_tensors(*source, options("q4_0"))).at(kDown), "bf16");
}

TEST_F(QuantizeByRtn, KeepOverridesAndFirstMatchWins) {
  const auto source = model();
  QuantizeOptions chosen = options("int4-g32-sym");
  chosen.keep = {
      {"*layers.1.self_attn.q_proj*", "int8-channel-sym"}, {"*layers.1.*", "bf16"}, {"model.embed*", "q8_0"}};
  const auto schemes = schemes_of(plan_tensors(*source, chosen));
  EXPECT_EQ(schemes.at(kQuery), "int8-channel-sym");
  EXPECT_EQ(schemes.at(kDown), "bf16");
  EXPECT_EQ(schemes.at(kNorm), "bf16");
  EXPECT_EQ(schemes.at(kEmbedding), "q8_0");
  chosen.keep = {{"*layers.1.*", "int8-channel-sym"}};
  EXPECT_EQ(schemes_of(plan_tensors(*source, chosen)).at(kNorm), "f32") << "a vector cannot be quantized";
}

TEST_F(QuantizeByRtn, KeepRulesThatCanDoNothingAreRefused) {
  const auto source = model();
  QuantizeOptions chosen = options("int4-g32-sym");
  chosen.keep = {{"*norm*", "int8-channel-sym"}};
  EXPECT_EQ(message_of([&] { plan_tensors(*source, chosen); }),
            "[quantize] --keep: '*norm*' names only vectors, and int8-channel-sym is for matrices. Give them f16, bf16 "
            "or f32");
  chosen.keep = {{"*norm*", "bf16"}};
  EXPECT_EQ(schemes_of(plan_tensors(*source, chosen)).at(kNorm), "bf16");
}

TEST_F(QuantizeByRtn, KeepRulesBehindOthersAreNoMistakes) {
  const auto source = model();
  QuantizeOptions chosen = options("int4-g32-sym");
  chosen.keep = {{"*layers.1.*", "bf16"}, {kQuery, "int8-channel-sym"}, {"*layers.1.*", "f16"}};
  EXPECT_EQ(schemes_of(plan_tensors(*source, chosen)).at(kQuery), "bf16");
  quantize(*source, chosen);
  const Json keep = read_json_file(path("out") / "retort.json")["options"]["keep"];
  EXPECT_EQ(keep, (Json{{"*layers.1.*", "bf16"}, {kQuery, "int8-channel-sym"}}));
}

TEST_F(QuantizeByRtn, AWrongTypeNamesItsOptionAndTheNearest) {
  const auto source = model();
  const auto message = [&](const std::string& scheme, const std::string& kept) {
    QuantizeOptions chosen = options(scheme);
    if (!kept.empty()) chosen.keep = {{"*", kept}};
    return message_of([&] { plan_tensors(*source, chosen); });
  };
  EXPECT_EQ(message("q4_km", ""), "[quantize] --scheme: 'q4_km' is not a scheme. The nearest valid one is q4_k_m");
  EXPECT_EQ(message("autp", ""), "[quantize] --scheme: 'autp' is not a scheme. The nearest valid one is auto");
  EXPECT_EQ(message("int4-g32-syn", ""),
            "[quantize] --scheme: 'int4-g32-syn' is not a scheme. The nearest valid one is int4-g32-sym");
  EXPECT_EQ(message("int4", "q4_kk"), "[quantize] --keep: 'q4_kk' is not a scheme. The nearest valid one is q4_k");
  for (const auto& [typed, meant] :
       {std::pair{"nf4", "nf4-g64"}, {"Q4_K_M", "q4_k_m"}, {"int4-sym", "int4-g32-sym"}, {"int5", "int4"}})
    EXPECT_THAT(message(typed, ""), ::testing::EndsWith(std::string("is ") + meant)) << typed;
  EXPECT_THAT(message("f17", ""), ::testing::Not(::testing::EndsWith("is f16"))) << "it does not quantize";
  EXPECT_THAT(message("int4", "int5"), ::testing::EndsWith("is int4"));
  EXPECT_EQ(message("int4", "f17"), "[quantize] --keep: 'f17' is not a scheme. The nearest valid one is f16");
}

TEST_F(QuantizeByRtn, WhatIsNotPossibleIsSaid) {
  const auto source = model();
  QuantizeOptions chosen = options("int4-g32-sym");
  chosen.keep = {{"*no_such_proj*", "bf16"}};
  EXPECT_THAT(message_of([&] { plan_tensors(*source, chosen); }), HasSubstr("no_such_proj"));
  EXPECT_THAT(message_of([&] { plan_tensors(*source, options("f16")); }), HasSubstr("does not quantize"));
  EXPECT_THAT(message_of([&] { plan_tensors(*source, options("int4-g32")); }), ::testing::IsEmpty());
  quantize(*source, options("int4-g32-sym"));
  EXPECT_THAT(message_of([&] { plan_tensors(*open_model(path("out")), options("q4_0")); }),
              HasSubstr("quantized already"));
  chosen = options("int4-g32-sym");
  chosen.method = "gptq";
  EXPECT_THAT(message_of([&] { quantize(*source, chosen); }), HasSubstr("--calibration"));
}

// Of integer schemes: the scales of other matrices are f16 as always.
TEST_F(QuantizeByRtn, PortableScalesAreOfIntegerSchemes) {
  const auto source = model();
  QuantizeOptions chosen = options("auto");
  chosen.size = "7bpw";
  chosen.types = "int3-g32-asym,int4-g32-sym";
  chosen.scale_type = "portable";
  EXPECT_EQ(to_json(quantize(*source, chosen))["scale_type"], "portable");
  EXPECT_EQ(read_json_file(path("out") / "retort.json")["scale_type"], "portable");
  const auto artifact = open_model(path("out"));
  for (const ModelTensor& tensor : artifact->tensors()) {
    if (tensor.scheme.is_dense()) continue;
    for (const float scale : artifact->read_quantized(tensor).scales)
      ASSERT_EQ(scale, bf16_to_f32(f32_to_bf16(scale))) << tensor.name;
  }
  for (const char* scheme : {"q4_0", "q4_k_m", "nf4-g32", "auto"}) {
    QuantizeOptions refused = options(scheme);
    refused.scale_type = "portable";
    if (refused.scheme == "auto") refused.size = "5bpw";
    EXPECT_THAT(message_of([&] { quantize(*source, refused); }), HasSubstr("is stored with f16 scales")) << scheme;
  }
  QuantizeOptions other = chosen;
  other.types = "nf4-g32,int4-g32-sym,int8-g32-sym";
  EXPECT_THAT(message_of([&] { quantize(*source, other); }), HasSubstr("nf4-g32 is stored with f16 scales"));
  other = options("int4-g32-sym");
  other.scale_type = "portable";
  other.keep = {{kQuery, "nf4-g32"}, {kDown, "q4_0"}};
  for (const TensorPlan& plan : plan_tensors(*source, other)) {
    if (plan.scheme.is_dense()) continue;
    EXPECT_EQ(plan.scale_type == ScaleType::kPortable, name_of(plan.scheme).starts_with("int")) << plan.tensor->name;
  }
  chosen.scale_type = "bf16";
  EXPECT_THAT(message_of([&] { quantize(*source, chosen); }), HasSubstr("They are f16 and portable"));
  EXPECT_FALSE(to_json(quantize(*source, options("int4-g32-sym"))).contains("scale_type"));
}

// What a run does not read, and who would; nothing is said of options that every run reads.
TEST(Heeded, OptionsBelongToWhatReadsThem) {
  struct Case {
    const char *method, *option;
    bool heeded;
    std::function<void(QuantizeOptions&)> with = [](QuantizeOptions&) {};
  };
  const auto automatic = [](QuantizeOptions& o) { o.scheme = "auto", o.calibration = "text"; };
  const auto tuned = [](QuantizeOptions& o) { o.tune_scales = 8; };
  const auto from_file = [](QuantizeOptions& o) { o.imatrix = "file"; };
  const auto aims = [](QuantizeOptions& o) { o.aim = "float"; };
  for (const Case& c : {Case{"rtn", "samples", false},
                        {"rtn", "calibration", false},
                        {"rtn", "calibration", true, automatic},
                        {"rtn", "samples", true, automatic},
                        {"rtn", "samples", false, tuned},
                        {"rtn", "sequence-length", true, tuned},
                        {"rtn", "grid", true},
                        {"rtn", "device", false},
                        {"rtn", "device", true, tuned},
                        {"rtn", "device", true, automatic},
                        {"gptq", "device", true},
                        {"imatrix", "device", true},
                        {"imatrix", "device", false, from_file},
                        {"rtn", "keep", true},
                        {"gptq", "samples", true},
                        {"gptq", "damp", true},
                        {"gptq", "grid", false},
                        {"gptq", "imatrix", false},
                        {"awq", "damp", false},
                        {"awq", "damp", true, aims},
                        {"awq", "group-order", false},
                        {"awq", "precision", true},
                        {"awq+gptq", "second-pass", true},
                        {"imatrix", "samples", true},
                        {"imatrix", "samples", false, from_file},
                        {"imatrix", "save-imatrix", true, from_file},
                        {"imatrix", "precision", false}}) {
    QuantizeOptions options;
    options.method = c.method;
    c.with(options);
    EXPECT_EQ(why_unheeded(options, c.option).empty(), c.heeded) << c.method << " --" << c.option;
  }
  EXPECT_EQ(why_unheeded({}, "samples"),
            "the method 'rtn' does not read it here; methods that do: gptq, awq, awq+gptq, imatrix");
}

TEST_F(QuantizeByRtn, TheArtifactHoldsTheSolversIntegers) {
  const auto source = model();
  for (const char* scheme : {"int4-g32-sym", "int3-channel-asym", "int8-tensor-sym", "q4_0", "q8_0"}) {
    const QuantizeSummary summary = quantize(*source, options(scheme), scheme);
    EXPECT_FALSE(summary.fell_back());
    const auto artifact = open_model(path(scheme));
    EXPECT_EQ(artifact->container(), "native");
    for (const TensorPlan& plan : plan_tensors(*source, options(scheme))) {
      const ModelTensor& tensor = artifact->at(plan.tensor->name);
      EXPECT_EQ(tensor.scheme, plan.scheme) << tensor.name;
      if (tensor.scheme.is_dense()) continue;
      const MatrixTask task{tensor.name, tensor.rows(), tensor.cols(), plan.scheme,
                            [&](int64_t first, int64_t count, std::span<float> out) {
                              source->read_f32(*plan.tensor, first, count, out);
                            }};
      ThreadPool pool(1);
      Context context{pool, sink_};
      const SolvedMatrix solved = round_to_nearest(task, Rounding{}, context);
      const QuantizedMatrix stored = artifact->read_quantized(tensor);
      EXPECT_EQ(stored.codes, solved.matrix->codes) << tensor.name;
      EXPECT_EQ(stored.scales, solved.matrix->scales) << tensor.name;
      EXPECT_EQ(stored.zeros, solved.matrix->zeros) << tensor.name;
    }
  }
}

TEST_F(QuantizeByRtn, BytesDependOnNeitherRunNorThreads) {
  const auto source = model();
  quantize(*source, options("int4-g32-asym"), "one", 1);
  quantize(*source, options("int4-g32-asym"), "two", 3);
  EXPECT_EQ(digest_of_path(path("one")), digest_of_path(path("two")));
}

TEST_F(QuantizeByRtn, TheReportHasTheKeysOfTheContract) {
  const auto source = model({.ffn_size = 172});
  const QuantizeSummary summary = quantize(*source, options("int4-g64-sym"));
  EXPECT_TRUE(summary.fell_back());
  const Json json = to_json(summary);
  for (const char* key :
       {"scheme", "method", "seconds", "peak_rss_bytes", "output_bytes", "bits_per_weight", "tensors"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_EQ(json["tensors"].size(), source->tensors().size());
  for (const Json& tensor : json["tensors"]) {
    for (const char* key : {"name", "scheme", "method", "relative_error", "fallback"})
      EXPECT_TRUE(tensor.contains(key));
    const bool down = tensor["name"].get<std::string>().find("down_proj") != std::string::npos;
    EXPECT_EQ(tensor["fallback"].is_null(), !down);
    const bool quantized = tensor["scheme"].get<std::string>().starts_with("int");
    EXPECT_TRUE(!quantized || std::abs(tensor["relative_error"].get<double>() - 0.1) < 0.05) << tensor["name"];
  }
  const Json stored = read_json_file(path("out") / "retort.json");
  EXPECT_EQ(stored["tensors"].size(), json["tensors"].size());
  EXPECT_FALSE(stored.contains("seconds"));
  uint64_t bits = 0;
  for (const ModelTensor& tensor : open_model(path("out"))->tensors()) bits += 8 * tensor.bytes;
  EXPECT_NEAR(summary.bits_per_weight, static_cast<double>(bits) / static_cast<double>(source->config().parameters()),
              0.02);
}

TEST_F(QuantizeByRtn, WeightsThatAreNotFiniteAreKeptAndReported) {
  const auto source = damaged(*model({.dtype = DType::kBF16}), kQuery, std::numeric_limits<float>::infinity());
  const QuantizeSummary summary = quantize(*source, options("int4-g32-sym"));
  EXPECT_TRUE(summary.fell_back());
  for (const TensorReport& tensor : summary.tensors) {
    EXPECT_EQ(tensor.fallback.empty(), tensor.name != kQuery) << tensor.name;
    if (tensor.name != kQuery) continue;
    EXPECT_EQ(tensor.scheme, "bf16");
    EXPECT_THAT(tensor.fallback, HasSubstr("NaN or infinity"));
  }
  const auto artifact = open_model(path("out"));
  EXPECT_EQ(artifact->read_f32(artifact->at(kQuery)), source->read_f32(source->at(kQuery)));
}

// Of what is copied or changed in its type alone: kept, and said.
TEST_F(QuantizeByRtn, DenseTensorsThatAreNotFiniteAreReported) {
  const auto whole = model({.dtype = DType::kBF16});
  for (const auto& [name, type] : {std::pair{kEmbedding, ""}, {kNorm, ""}, {kNorm, "f16"}, {kNorm, "f32"}})
    for (const float value : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
      const auto source = damaged(*whole, name, value);
      QuantizeOptions chosen = options("int4-g32-sym");
      if (*type != '\0') chosen.keep = {{"*norm.weight", type}};
      const QuantizeSummary summary = quantize(*source, chosen);
      EXPECT_TRUE(summary.fell_back()) << name << type;
      for (const TensorReport& tensor : summary.tensors) {
        EXPECT_EQ(tensor.fallback, tensor.name == name ? "the weights hold NaN or infinity: kept as it is" : "");
        EXPECT_TRUE(std::isfinite(tensor.relative_error)) << tensor.name;
      }
      chosen.strict = true;
      EXPECT_THAT(message_of([&] { quantize(*source, chosen); }), HasSubstr("--strict")) << name << type;
    }
}

TEST_F(QuantizeByRtn, MatricesWhoseScalesAreTooLargeHaveNoErrorToReport) {
  const auto source = damaged(*model(), kQuery, 1e30f);
  for (const int outliers : {0, 2}) {
    QuantizeOptions chosen = options("int4-g32-sym");
    chosen.outliers = outliers;
    for (const TensorReport& tensor : quantize(*source, chosen).tensors) {
      if (tensor.name != kQuery) continue;
      EXPECT_THAT(tensor.fallback, HasSubstr("too large for f16"));
      EXPECT_EQ(tensor.relative_error, 0);
    }
  }
}

TEST_F(QuantizeByRtn, WhatF16CannotHoldBecomesBf16) {
  const auto source = damaged(*model({.dtype = DType::kF32}), kEmbedding, 1e6f);
  const QuantizeSummary summary = quantize(*source, options("int4-g32-sym"));
  EXPECT_EQ(summary.tensors.front().name, kEmbedding);
  EXPECT_EQ(summary.tensors.front().scheme, "bf16");
  EXPECT_NE(summary.tensors.front().fallback, "");
}

}  // namespace
}  // namespace retort
