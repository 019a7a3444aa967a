// The commands generate and bench.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
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

}  // namespace
}  // namespace retort
