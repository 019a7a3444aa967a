// Trained models: what they say, and how little quantized activations change it.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/base/files.h"
#include "tests/runtime/engine_support.h"
#include "tests/support/memory_source.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using namespace retort::testing;  // NOLINT: the helpers of this folder

const fs::path kSource = RETORT_SOURCE_DIR;
const fs::path kStories = kSource / "../shared/data/weights";

class QuantizedTeacher : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, QuantizedTeacher,
                         ::testing::Values("int4-g128-sym", "int4-g32-asym", "int8-channel-sym", "q4_0", "q8_0"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// KL below 1e-3 nats per token between quantized weights with int8 activations and the same weights in float32.
TEST_P(QuantizedTeacher, ActivationsInInt8StayCloseToFloatMath) {
  const auto teacher = open_model(kSource / "recipes/quickstart/teacher");
  const MemorySource source(*teacher, parse_scheme(GetParam()));
  const std::string text = read_text_file(kSource / "recipes/quickstart/heldout.txt").substr(0, 6000);
  const auto tokens = teacher->tokenizer()->encode(text);
  constexpr size_t kWindow = 256;
  ASSERT_GE(tokens.size(), 3 * kWindow);
  Runner runner(2);
  const auto engine = load_engine(source, {}, runner.context);
  const auto reference = load_engine(source, {.float_math = true}, runner.context);
  double total = 0;
  for (size_t window = 0; window < 3; ++window) {
    const auto ids = std::span(tokens).subspan(window * kWindow, kWindow);
    total += kl_mean(logits_of(*reference, ids, kWindow), logits_of(*engine, ids, kWindow),
                     static_cast<size_t>(teacher->config().vocab_size));
  }
  RecordProperty("kl_mean", std::to_string(total / 3));
  EXPECT_GT(total / 3, 0);
  EXPECT_LT(total / 3, 1e-3);
}

// The same weights in two containers give the same bits: GGUF holds the query and key rows in another order.
TEST(Stories, GgufEqualsHuggingFace) {
  if (!fs::exists(kStories)) GTEST_SKIP() << "shared data is absent: " << kStories;
  Runner runner;
  const auto directory = load_engine(*open_model(kStories / "stories260K-hf"), {}, runner.context);
  const auto file = load_engine(*open_model(kStories / "stories260K/stories260K.gguf"), {}, runner.context);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 60; ++i) tokens.push_back((i * 37 + 1) % 512);
  EXPECT_EQ(bits_of(logits_of(*directory, tokens, 60)), bits_of(logits_of(*file, tokens, 60)));
}

}  // namespace
}  // namespace retort
