// Whole runs on tiny models, and what is refused.
#include "prune/prune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

using ::testing::HasSubstr;

struct Bench {
  Bench() {
    testing::write_tiny_model(dir.path() / "model", {.model_type = "qwen2"});
    std::string text;
    testing::Random random(1);
    while (text.size() < 3000) text += "abcdefgh \n"[random.below(10)];
    write_text_file(dir.path() / "text.txt", text);
    options = {.layers = 2, .ffn = 128, .calibration = (dir.path() / "text.txt").string(), .samples = 8};
  }

  PruneSummary run(const char* output, int threads = 2) {
    ThreadPool pool(threads);
    ProgressSink sink;
    Context context{.threads = pool, .progress = sink, .memory_limit = memory_limit};
    std::filesystem::create_directories(dir.path() / output);
    return prune_model(*open_model(dir.path() / "model"), dir.path() / output, options, context);
  }

  std::string refusal() {
    try {
      run("out");
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was refused";
  }

  testing::TempDir dir;
  PruneOptions options;
  uint64_t memory_limit = 0;
};

TEST(Prune, WritesTheSmallerCheckpoint) {
  Bench bench;
  const PruneSummary summary = bench.run("out");
  const auto source = open_model(bench.dir.path() / "model"), pruned = open_model(bench.dir.path() / "out");
  EXPECT_TRUE(pruned->problems().empty());
  EXPECT_EQ(pruned->config().layers, 2);
  EXPECT_EQ(pruned->config().ffn_size, 128);
  EXPECT_EQ(summary.layer_scores.size(), 3u);
  EXPECT_EQ(summary.kept_layers.size(), 2u);
  ASSERT_EQ(summary.kept_channels.size(), 2u);
  EXPECT_EQ(summary.kept_channels[0].size(), 128u);
  EXPECT_TRUE(std::ranges::is_sorted(summary.kept_channels[0]));
  EXPECT_EQ(summary.calibration_tokens, 8 * 128);
  EXPECT_EQ(summary.parameters_before, source->config().parameters());
  EXPECT_EQ(summary.parameters_after, pruned->config().parameters());
  const Json report = read_json_file(bench.dir.path() / "out" / "retort.json");
  EXPECT_EQ(report["kept_layers"].get<std::vector<int64_t>>(), summary.kept_layers);
}

TEST(Prune, GivesTheSameBytesForAnyNumberOfThreads) {
  Bench bench;
  bench.run("one", 1);
  bench.run("two", 2);
  EXPECT_EQ(digest_of_path(bench.dir.path() / "one"), digest_of_path(bench.dir.path() / "two"));
}

TEST(Prune, LeavesADimensionThatIsNotNamed) {
  Bench bench;
  bench.options.ffn = 0;
  EXPECT_EQ(bench.run("layers").ffn_after, 160);
  bench.options = {.ffn = 128, .calibration = bench.options.calibration};
  EXPECT_EQ(bench.run("ffn").kept_layers, (std::vector<int64_t>{0, 1, 2}));
}

TEST(Prune, RefusesSizesThatDoNotFit) {
  Bench bench;
  bench.options.ffn = 100;
  EXPECT_THAT(bench.refusal(), HasSubstr("100 is not a multiple of 128. Give 128, or another --ffn-multiple"));
  bench.options.ffn = 150;
  EXPECT_THAT(bench.refusal(), HasSubstr("Give 128, or another"));  // 256 is more than the model has
  bench.options.ffn_multiple = 50;
  bench.options.ffn = 101;
  EXPECT_THAT(bench.refusal(), HasSubstr("Give 100 or 150, or another"));
  bench.options.ffn = 161;
  EXPECT_THAT(bench.refusal(), HasSubstr("161 is not within 1 to 160"));
  bench.options = {.layers = 4, .calibration = bench.options.calibration};
  EXPECT_THAT(bench.refusal(), HasSubstr("4 is not within 1 to 3"));
  bench.options.layers = 0;
  EXPECT_THAT(bench.refusal(), HasSubstr("nothing to prune"));
}

TEST(Prune, TakesAnotherMultiple) {
  Bench bench;
  bench.options.ffn = 100;
  bench.options.ffn_multiple = 4;
  EXPECT_EQ(bench.run("out").ffn_after, 100);
}

TEST(Prune, RefusesToExceedAMemoryLimit) {
  Bench bench;
  bench.memory_limit = 1 << 20;
  EXPECT_THAT(bench.refusal(), HasSubstr("above the limit of 1.0 MiB"));
  bench.memory_limit = uint64_t{1} << 30;
  EXPECT_EQ(bench.run("out").ffn_after, 128);
}

TEST(Prune, RefusesATextThatIsTooShort) {
  Bench bench;
  write_text_file(bench.dir.path() / "text.txt", "short");
  EXPECT_THAT(bench.refusal(), HasSubstr("less than one window of 128"));
}

}  // namespace
}  // namespace retort
