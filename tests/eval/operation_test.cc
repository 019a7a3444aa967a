// The command: its JSON keys are what other people's scripts read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/base/error.h"
#include "recipes/operations/rows.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

using ::testing::HasSubstr;

class EvalOperation : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_tiny_model(directory.path() / "a", {});
    testing::write_tiny_model(directory.path() / "b", {.seed = 2});
    std::ofstream(directory.path() / "text.txt") << std::string(300, 'x') << "It was the best of times.";
  }

  OperationResult run(Json values) {
    for (const char* key : {"model", "reference", "text"})
      if (values.contains(key)) values[key] = (directory.path() / values[key].get<std::string>()).string();
    return kEvalOperation.run(check_params(kEvalOperation.params, values, "eval"), {}, context);
  }

  std::string error_of(const Json& values) {
    try {
      run(values);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  testing::TempDir directory;
  ThreadPool pool{2};
  ProgressSink silent;
  Context context{pool, silent};
};

std::vector<std::string> keys_of(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  return keys;
}

TEST_F(EvalOperation, GivesTheKeysOfTheContract) {
  const OperationResult result = run({{"model", "a"}, {"text", "text.txt"}});
  EXPECT_THAT(keys_of(result.json), ::testing::ElementsAre("model", "model_digest", "text", "convention", "tokens",
                                                           "perplexity", "seconds", "tokens_per_second", "backend"));
  EXPECT_EQ(result.json["model_digest"].get<std::string>().size(), 32u);
  EXPECT_EQ(result.json["convention"], "windows-128");  // the model's context length
  EXPECT_EQ(result.json["tokens"], 2 * 127);            // 325 tokens, one per byte
  EXPECT_GT(result.json["perplexity"], 1.0);
  EXPECT_THAT(result.text, HasSubstr("perplexity"));
  EXPECT_TRUE(result.as_asked);
}

TEST_F(EvalOperation, MeasuresAgainstAReference) {
  const Json base{{"model", "a"}, {"text", "text.txt"}, {"convention", "llama.cpp-64"}, {"max-tokens", 200}};
  Json self = base, other = base;
  self["reference"] = "a";
  other["reference"] = "b";
  const Json same = run(self).json, different = run(other).json;
  EXPECT_EQ(same["tokens"], 3 * 31);
  EXPECT_EQ(same["kl_max"], 0);
  EXPECT_EQ(same["top1_agreement"], 1);
  EXPECT_GT(different["kl_mean"], 0);
  EXPECT_GE(different["kl_max"], different["kl_p99"]);
  EXPECT_LT(different["top1_agreement"], 1);
  EXPECT_EQ(same["perplexity"], different["perplexity"]);
}

// The engine computes with 8-bit activations, so the two agree only so far.
TEST_F(EvalOperation, BackendsAgree) {
  const Json torch = run({{"model", "a"}, {"text", "text.txt"}, {"backend", "torch"}}).json;
  const Json runtime = run({{"model", "a"}, {"text", "text.txt"}, {"backend", "runtime"}}).json;
  EXPECT_EQ(runtime["backend"], "runtime");
  EXPECT_NEAR(runtime["perplexity"].get<double>() / torch["perplexity"].get<double>(), 1, 0.02);
}

TEST_F(EvalOperation, RefusesByName) {
  EXPECT_THAT(error_of({{"model", "a"}, {"text", "text.txt"}, {"convention", "windows"}}), HasSubstr("windows-N"));
  EXPECT_THAT(error_of({{"model", "a"}, {"text", "text.txt"}, {"backend", "onnx"}}), HasSubstr("backend"));
  EXPECT_THAT(error_of({{"model", "a"}, {"text", "text.txt"}, {"max-tokens", 5}}), HasSubstr("fewer than one window"));
  EXPECT_THAT(error_of({{"model", "a"}, {"text", "absent.txt"}}), HasSubstr("absent.txt"));
  testing::write_tiny_model(directory.path() / "larger", {.vocab_size = 280});
  EXPECT_THAT(error_of({{"model", "a"}, {"text", "text.txt"}, {"reference", "larger"}}), HasSubstr("vocabulary"));
}

}  // namespace
}  // namespace retort
