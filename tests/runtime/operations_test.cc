// The commands generate and bench.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/files.h"
#include "recipes/operations/rows.h"
#include "runtime/kernels/registry.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

using retort::testing::TempDir;
using retort::testing::TinyModel;
using ::testing::HasSubstr;

OperationResult run(const Operation& operation, const Json& values, uint64_t seed = 0) {
  ThreadPool threads(2);
  ProgressSink silent;
  Context context{threads, silent};
  context.seed = seed;
  return operation.run(check_params(operation.params, values, operation.name), {}, context);
}

class Bench : public ::testing::Test {
 protected:
  void SetUp() override { retort::testing::write_tiny_model(model_, TinyModel()); }
  TempDir directory_;
  std::filesystem::path model_ = directory_.path() / "model";
};

TEST_F(Bench, ReportsWhatTheContractNames) {
  const Json values = {
      {"model", model_.string()}, {"prompt-tokens", 20}, {"new-tokens", 5}, {"depth", 7}, {"batch", 2}, {"repeat", 2},
      {"kernel", "reference"}};
  const OperationResult result = run(kBenchOperation, values);
  for (const char* key : {"prompt_tokens_per_second", "decode_tokens_per_second", "time_to_first_token_seconds"})
    EXPECT_GT(result.json.at(key).get<double>(), 0) << key;
  EXPECT_GT(result.json.at("peak_rss_bytes").get<int64_t>(), 1 << 20);
  EXPECT_GT(result.json.at("weight_bytes").get<int64_t>(), 264 * 64 * 4 * 2);
  EXPECT_EQ(result.json.at("threads"), 2);
  EXPECT_EQ(result.json.at("kernel"), "reference");
  EXPECT_EQ(result.json.at("device"), "cpu");
  EXPECT_THAT(result.text, HasSubstr("tokens/s"));
}

TEST_F(Bench, ListsKernels) {
  const OperationResult result = run(kBenchOperation, {{"list-kernels", true}});
  ASSERT_EQ(result.json.at("kernels").size(), kernels().size());
  int defaults = 0;
  for (size_t i = 0; i < kernels().size(); ++i) {
    const Json& row = result.json["kernels"][i];
    EXPECT_EQ(row.at("name"), kernels()[i]->name);
    EXPECT_EQ(row.at("supported"), is_supported(*kernels()[i]));
    EXPECT_THAT(result.text, HasSubstr(kernels()[i]->name));
    defaults += row.at("default") ? 1 : 0;
  }
  EXPECT_EQ(defaults, 1);
}

TEST_F(Bench, NeedsAModelAndAKnownKernel) {
  EXPECT_THROW(run(kBenchOperation, Json::object()), Error);
  EXPECT_THROW(run(kBenchOperation, {{"model", model_.string()}, {"kernel", "sse9"}}), Error);
}

std::string text_of(const Json& values, uint64_t seed = 0) { return run(kGenerateOperation, values, seed).text; }

std::string error_of(const Json& values) {
  try {
    run(kGenerateOperation, values);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

class Generate : public ::testing::Test {
 protected:
  const std::filesystem::path teacher_ = std::filesystem::path(RETORT_SOURCE_DIR) / "recipes/quickstart/teacher";
  Json values(const char* prompt, int64_t tokens) const {
    return {{"model", teacher_.string()}, {"prompt", prompt}, {"max-new-tokens", tokens}};
  }
};

// The text of tinyllamas' stories260K.md, which llama2.c wrote. (The GGUF file claims a context of 128.)
TEST(Stories, AreToldWordForWord) {
  const auto weights = std::filesystem::path(RETORT_SOURCE_DIR) / "../shared/data/weights";
  if (!std::filesystem::exists(weights)) GTEST_SKIP() << "shared data is absent: " << weights;
  const std::string page = read_text_file(weights / "stories260K/stories260K.md");
  const size_t begin = page.find("Once upon a time, there was a little girl"), end = page.find("\n```", begin);
  const std::string story = page.substr(begin, end - begin);
  for (const char* model : {"stories260K-hf", "stories260K/stories260K.gguf"}) {
    const std::string path = (weights / model).string();
    EXPECT_EQ("Once upon a time" + text_of({{"model", path}, {"prompt", "Once upon a time"}, {"max-new-tokens", 252}}),
              story);
  }
}

TEST_F(Generate, StopsBeforeTheFirstStopText) {
  const std::string text = text_of(values("It was a", 40));
  ASSERT_GT(text.size(), 30u);
  EXPECT_EQ(text.front(), ' ') << "leading blanks are kept";
  const std::string stop = text.substr(12, 3), other = text.substr(25, 2);
  Json stopped = values("It was a", 40);
  stopped["stop"] = {other, stop};
  const OperationResult result = run(kGenerateOperation, stopped);
  EXPECT_EQ(result.text, text.substr(0, std::min(text.find(stop), text.find(other))));
  EXPECT_EQ(result.json.at("stopped_by"), "text");
  EXPECT_EQ(result.json.at("text"), result.text);
}

TEST_F(Generate, SeedsDecideWhatIsSampled) {
  Json sampled = values("The", 30);
  sampled["temperature"] = 1.0;
  const std::string first = text_of(sampled, 1);
  EXPECT_EQ(text_of(sampled, 1), first);
  EXPECT_NE(text_of(sampled, 2), first);
  sampled["top-k"] = 1;
  EXPECT_EQ(text_of(sampled, 5), text_of(values("The", 30))) << "one candidate is greedy";
}

TEST_F(Generate, ReadsThePromptFromAFile) {
  TempDir directory;
  const auto file = directory.path() / "prompt.txt";
  write_text_file(file, "It was a");
  EXPECT_EQ(text_of({{"model", teacher_.string()}, {"prompt-file", file.string()}, {"max-new-tokens", 10}}),
            text_of(values("It was a", 10)));
}

struct Messages : ProgressSink {
  void message(std::string_view text) override { all += text; }
  std::string all;
};

TEST_F(Generate, GoesOnBeyondTheContextWithAMessage) {
  Messages messages;
  ThreadPool threads(1);
  Context context{threads, messages};
  const auto run_with = [&](int64_t tokens) {
    const Params params = check_params(kGenerateOperation.params, values("word word word", tokens), "generate");
    return kGenerateOperation.run(params, {}, context);
  };
  run_with(3);
  EXPECT_EQ(messages.all, "");
  run_with(256);
  EXPECT_THAT(messages.all, HasSubstr("the model was made for 256"));
}

TEST_F(Generate, RefusesWhatMakesNoSense) {
  Json both = values("a", 1);
  both["prompt-file"] = "x";
  EXPECT_THAT(error_of(both), HasSubstr("--prompt"));
  EXPECT_THAT(error_of({{"model", teacher_.string()}}), HasSubstr("--prompt"));
  Json cold = values("a", 1);
  cold["top-p"] = 2.0;
  EXPECT_THAT(error_of(cold), HasSubstr("top-p"));
}

}  // namespace
}  // namespace retort
