#include "runtime/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ostream>

#include "core/base/error.h"
#include "runtime/kernels/registry.h"
#include "runtime/packed_matrix.h"
#include "tests/runtime/engine_support.h"
#include "tests/support/error_of.h"
#include "tests/support/memory_source.h"

namespace retort {
namespace {

using retort::testing::bits_of;
using retort::testing::kl_mean;
using retort::testing::logits_of;
using retort::testing::MemorySource;
using retort::testing::Random;
using retort::testing::Runner;
using retort::testing::TinyModel;
using testing::error_of;
using ::testing::HasSubstr;

std::vector<int32_t> random_tokens(int64_t count) {
  Random random(3);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(264));
  return tokens;
}

TinyModel sliding_model() {
  TinyModel model;
  model.model_type = "mistral";
  model.window = 40;
  model.head_dim = 20;  // no multiple of a tile
  return model;
}

struct Variant {
  const char* name;
  TinyModel model;
  const char* scheme;
  bool shuffled;
  int64_t outliers = 0;
};

void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

std::vector<Variant> variants() {
  TinyModel tied;
  tied.tied = true;
  tied.dtype = DType::kBF16;
  TinyModel normed;
  normed.model_type = "qwen3";
  normed.kv_heads = 1;
  normed.dtype = DType::kF16;
  TinyModel biased;
  biased.model_type = "qwen2";
  return {{"int4", tied, "int4-g32-sym", false},
          {"int4_ordered", normed, "int4-g32-asym", true},
          {"int8", biased, "int8-channel-sym", false},
          {"bf16", tied, "bf16", false},
          {"int4_outliers", tied, "int4-g32-sym", false, 3},
          {"int3_ordered_outliers", normed, "int3-g32-asym", true, 5},
          {"int8_outliers", biased, "int8-channel-sym", false, 2},
          {"f32_sliding", sliding_model(), "f32", false},
          {"q8_0_sliding", sliding_model(), "q8_0", false}};
}

class EngineVariants : public ::testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(All, EngineVariants, ::testing::ValuesIn(variants()),
                         [](const auto& info) { return std::string(info.param.name); });

// The same bits whatever the threads, the pieces in which the text comes, and the kernel.
TEST_P(EngineVariants, LogitsDoNotDependOnHowTheyAreComputed) {
  const MemorySource source(GetParam().model, parse_scheme(GetParam().scheme), GetParam().shuffled,
                            GetParam().outliers);
  const auto tokens = random_tokens(100);
  Runner one;
  const auto engine = load_engine(source, {.kernel = "reference"}, one.context);
  const auto expected = bits_of(logits_of(*engine, tokens, 100));
  EXPECT_EQ(bits_of(logits_of(*engine, tokens, 1)), expected) << "one token at a time";
  EXPECT_EQ(bits_of(logits_of(*engine, tokens, 37)), expected) << "in pieces";
  for (const Kernel* kernel : kernels()) {
    if (!is_supported(*kernel)) continue;
    const auto single = load_engine(source, {.kernel = kernel->name}, one.context);
    EXPECT_EQ(single->kernel(), kernel->name);
    EXPECT_EQ(bits_of(logits_of(*single, tokens, 1)), expected) << kernel->name << ", one token at a time";
    Runner three(3);
    const auto threaded = load_engine(source, {.kernel = kernel->name}, three.context);
    EXPECT_EQ(bits_of(logits_of(*threaded, tokens, 99)), expected) << kernel->name << ", on three threads";
  }
}

TEST_P(EngineVariants, QuantizedActivationsStayCloseToFloatMath) {
  const MemorySource source(GetParam().model, parse_scheme(GetParam().scheme), GetParam().shuffled,
                            GetParam().outliers);
  const auto tokens = random_tokens(100);
  Runner runner;
  const auto engine = load_engine(source, {}, runner.context);
  const auto reference = load_engine(source, {.float_math = true}, runner.context);
  const auto expected = logits_of(*reference, tokens, 64), logits = logits_of(*engine, tokens, 64);
  if (parse_scheme(GetParam().scheme).is_dense()) {
    EXPECT_EQ(bits_of(logits), bits_of(expected)) << "16-bit weights are exact in float32";
  } else {
    const double kl = kl_mean(expected, logits, 264);
    EXPECT_GT(kl, 0);
    EXPECT_LT(kl, 1e-3);
  }
  EXPECT_LE(engine->weight_bytes(), reference->weight_bytes());
}

TEST(Engine, WindowsCutAttention) {
  TinyModel model = sliding_model();
  const auto tokens = random_tokens(100);
  Runner runner;
  const auto windowed = load_engine(MemorySource(model, parse_scheme("f32")), {}, runner.context);
  model.window = 0;
  model.extra = {{"sliding_window", nullptr}};
  const auto full = load_engine(MemorySource(model, parse_scheme("f32")), {}, runner.context);
  const auto a = logits_of(*windowed, tokens, 100), b = logits_of(*full, tokens, 100);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 40 * 264, b.begin())) << "within the window nothing is cut";
  EXPECT_FALSE(std::equal(a.begin() + 40 * 264, a.begin() + 41 * 264, b.begin() + 40 * 264));
}

TEST(Engine, SessionsRewind) {
  Runner runner;
  const auto engine = load_engine(MemorySource(TinyModel(), parse_scheme("int8")), {}, runner.context);
  const auto tokens = random_tokens(30);
  const auto session = engine->new_session(30);
  std::vector<float> first(264), again(264);
  engine->forward(*session, std::span(tokens).first(20), 0, {});
  engine->forward(*session, std::span(tokens).subspan(20, 10), 1, first);
  EXPECT_EQ(session->position(), 30);
  session->reset(20);
  engine->forward(*session, std::span(tokens).subspan(20, 10), 1, again);
  EXPECT_EQ(bits_of(first), bits_of(again));
  EXPECT_THROW(session->reset(31), Error);
}

TEST(Engine, RefusesWhatDoesNotFit) {
  Runner runner;
  const MemorySource source(TinyModel(), parse_scheme("int4-g32-sym"));
  const auto engine = load_engine(source, {}, runner.context);
  const auto session = engine->new_session(4);
  std::vector<float> logits(264);
  const std::vector<int32_t> five(5, 1), outside{264}, negative{-1}, one{1};
  EXPECT_THAT(error_of([&] { engine->forward(*session, five, 1, logits); }),
              HasSubstr("[runtime] sequence: it would reach 5 tokens, and its cache holds 4"));
  EXPECT_THAT(error_of([&] { engine->forward(*session, outside, 1, logits); }), HasSubstr("vocabulary of 264"));
  EXPECT_THAT(error_of([&] { engine->forward(*session, negative, 1, logits); }), HasSubstr("token -1"));
  EXPECT_THAT(error_of([&] { engine->forward(*session, one, 2, logits); }), HasSubstr("logits"));
  EXPECT_THAT(error_of([&] { engine->new_session(0); }), HasSubstr("session of 0 tokens: it must hold 1 to"));
  EXPECT_THAT(error_of([&] { load_engine(source, {.kernel = "neon"}, runner.context); }), HasSubstr("kernel neon"));
  EXPECT_THAT(error_of([&] { engine->new_session(int64_t{1} << 62); }), HasSubstr("2^24"));
  Runner small;
  small.context.memory_limit = 20000;
  EXPECT_THAT(error_of([&] { load_engine(source, {}, small.context); }), HasSubstr("above the limit of"));
  small.context.memory_limit = engine->weight_bytes() + 100000;
  const auto limited = load_engine(source, {}, small.context);
  EXPECT_EQ(error_of([&] { limited->new_session(10); }), "no error");
  EXPECT_THAT(error_of([&] { limited->new_session(1000); }), HasSubstr("--memory"));
  small.context.device = "cuda";
  EXPECT_THAT(error_of([&] { load_engine(source, {}, small.context); }), HasSubstr("--device cpu"));
}

TEST(Engine, RefusesGroupsOfUnequalSize) {
  Runner runner;
  MemorySource source;
  QuantizedMatrix matrix = make_quantized(parse_scheme("int4-g32-sym"), 4, 64);
  matrix.column_group.assign(64, 0);
  source.add_quantized("w", matrix);
  EXPECT_THAT(error_of([&] { PackedMatrix(source, source.tensors()[0], false, runner.threads); }),
              HasSubstr("[runtime] w: a group has more columns"));
}

}  // namespace
}  // namespace retort
