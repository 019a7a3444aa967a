// Whole runs on tiny models: what is written, what is refused, and that interruptions leave no trace.
#include "distill/distill.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "model/training/memory.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Throws in the n-th progress report: a crash between two steps, after the metrics and before the checkpoint.
class FailingSink : public ProgressSink {
 public:
  explicit FailingSink(int fail_at) : left_(fail_at) {}
  void update(int64_t, std::string_view) override {
    if (--left_ == 0) throw std::runtime_error("stopped by the test");
  }

 private:
  int left_;
};

struct Bench {
  explicit Bench(const testing::TinyModel& teacher = {.context_length = 32, .seed = 5},
                 const testing::TinyModel& student = {.hidden_size = 32,
                                                      .ffn_size = 48,
                                                      .layers = 2,
                                                      .context_length = 32,
                                                      .tied = true,
                                                      .dtype = DType::kBF16,
                                                      .seed = 6}) {
    testing::write_tiny_model(dir.path() / "teacher", teacher);
    testing::write_tiny_model(dir.path() / "student", student);
    std::string text;
    testing::Random random(1);
    while (text.size() < 4000) text += "abcdefgh \n"[random.below(10)];
    write_text_file(dir.path() / "text.txt", text);
    options.data = (dir.path() / "text.txt").string();
    options.steps = 6;
    options.batch_tokens = 128;
    options.micro_batch_tokens = 64;
    options.held_out = 4;
    options.evaluations = 3;
    options.checkpoint_minutes = 0;
  }

  DistillSummary run(const char* output, int threads = 2, int fail_at = 0, uint64_t seed = 0) {
    ThreadPool pool(threads);
    FailingSink sink(fail_at);
    Context context{.threads = pool, .progress = sink, .memory_limit = memory_limit, .seed = seed};
    fs::create_directories(dir.path() / output);
    const auto teacher = open_model(dir.path() / "teacher"), student = open_model(dir.path() / "student");
    return distill_model(*teacher, *student, dir.path() / output, options, context);
  }

  std::string refusal(const char* output = "out") {
    try {
      run(output);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was refused";
  }

  std::vector<Json> metrics(const char* output) {
    std::vector<Json> lines;
    std::istringstream in(read_text_file(dir.path() / output / "metrics.jsonl"));
    for (std::string line; std::getline(in, line);) lines.push_back(parse_json(line, "metrics"));
    return lines;
  }

  std::string digest(const char* output) { return digest_of_path(dir.path() / output); }

  testing::TempDir dir;
  DistillOptions options;
  uint64_t memory_limit = 0;
};

TEST(Distill, LowersTheDivergenceAndWritesACheckpoint) {
  Bench bench;
  bench.options.steps = 30;
  bench.options.learning_rate = 1e-2;
  const DistillSummary summary = bench.run("out");
  EXPECT_EQ(summary.steps, 30);
  EXPECT_EQ(summary.tokens, 30 * 128);
  ASSERT_EQ(summary.held_out.size(), 4u);
  EXPECT_EQ(summary.held_out.back().step, 30);
  EXPECT_LT(summary.held_out.back().kl, 0.8 * summary.held_out.front().kl);
  const auto written = open_model(bench.dir.path() / "out");
  EXPECT_TRUE(written->problems().empty());
  EXPECT_EQ(written->tensors()[0].scheme.dense, DType::kBF16);
  EXPECT_NE(written->side_file("tokenizer.json"), nullptr);
  EXPECT_FALSE(fs::exists(bench.dir.path() / "out" / "resume"));
  const Json report = read_json_file(bench.dir.path() / "out" / "retort.json");
  EXPECT_EQ(report["operation"], "distill");
  EXPECT_FALSE(report.contains("seconds"));  // the same run gives the same bytes
}

TEST(Distill, KeepsMetricsOfEveryStep) {
  Bench bench;
  bench.run("out");
  const auto lines = bench.metrics("out");
  ASSERT_EQ(lines.size(), 6u + 4u);
  EXPECT_EQ(lines[0]["step"], 0);
  EXPECT_TRUE(lines[0].contains("held_out_loss"));
  EXPECT_EQ(lines[1]["step"], 1);
  EXPECT_EQ(lines[1]["tokens"], 128);
  for (const char* key : {"loss", "kl", "cross_entropy", "learning_rate", "gradient_norm"})
    EXPECT_TRUE(lines[1].contains(key)) << key;
  EXPECT_EQ(lines.back()["step"], 6);
  EXPECT_TRUE(lines.back().contains("held_out_kl"));
}

TEST(Distill, GivesTheSameBytesForAnyNumberOfThreads) {
  Bench bench;
  bench.run("one", 1);
  bench.run("two", 2);
  EXPECT_EQ(bench.digest("one"), bench.digest("two"));
  bench.run("other", 1, 0, /*seed=*/1);
  EXPECT_NE(bench.digest("one"), bench.digest("other"));
}

TEST(Distill, ContinuesToTheSameBytesAfterAnyInterruption) {
  Bench bench;
  bench.run("whole");
  for (const int fail_at : {1, 2, 4, 6}) {
    const std::string name = "cut" + std::to_string(fail_at);
    EXPECT_THROW(bench.run(name.c_str(), 2, fail_at), std::runtime_error);
    EXPECT_FALSE(fs::exists(bench.dir.path() / name / "config.json"));
    const DistillSummary summary = bench.run(name.c_str());
    EXPECT_EQ(summary.resumed_from, fail_at - 1);
    EXPECT_EQ(bench.digest(name.c_str()), bench.digest("whole")) << fail_at;
  }
}

TEST(Distill, ContinuesAfterSeveralInterruptions) {
  Bench bench;
  bench.run("whole");
  for (int i = 0; i < 2; ++i) EXPECT_THROW(bench.run("cut", 2, 3), std::runtime_error);  // two steps each time
  EXPECT_EQ(bench.run("cut").resumed_from, 4);
  EXPECT_EQ(bench.digest("cut"), bench.digest("whole"));
}

TEST(Distill, RefusesTheCheckpointOfAnotherRun) {
  Bench bench;
  EXPECT_THROW(bench.run("cut", 2, 3), std::runtime_error);
  bench.options.learning_rate *= 2;
  EXPECT_THAT(bench.refusal("cut"), HasSubstr("an interrupted run with other inputs or options"));
}

TEST(Distill, TakesTheBudgetThatEndsFirst) {
  Bench bench;
  bench.options.tokens = 300;  // 3 steps of 128
  EXPECT_EQ(bench.run("tokens").steps, 3);
  bench.options.tokens = 0;
  bench.options.minutes = 1e-9;
  EXPECT_EQ(bench.run("minutes").steps, 1);
  bench.options.steps = 0;
  bench.options.minutes = 0;
  EXPECT_EQ(bench.run("pass").steps, (3999 / 32 - 4 + 3) / 4);  // one pass: windows of 32, 4 held out, 4 in a step
}

TEST(Distill, RefusesAnotherTokenizer) {
  Bench bench;
  Json tokenizer = testing::tiny_tokenizer();
  auto& vocab = tokenizer["model"]["vocab"];
  std::swap(vocab["a"], vocab["b"]);
  write_text_file(bench.dir.path() / "teacher" / "tokenizer.json", tokenizer.dump());
  EXPECT_THAT(bench.refusal(), HasSubstr("its tokenizer is not the tokenizer of"));
}

TEST(Distill, ComparesPaddedVocabulariesOverTheTokenizersOwn) {
  Bench bench({.vocab_size = 320, .context_length = 32, .seed = 5});  // the student has 264, the tokenizer 258
  EXPECT_EQ(bench.run("out").steps, 6);
  const auto student = open_model(bench.dir.path() / "student"), trained = open_model(bench.dir.path() / "out");
  const std::string head = "model.embed_tokens.weight";
  const auto before = student->read_f32(student->at(head)), after = trained->read_f32(trained->at(head));
  const size_t width = 32;
  EXPECT_NE(std::vector(before.begin(), before.begin() + 258 * width),
            std::vector(after.begin(), after.begin() + 258 * width));
  bench.options.weight_decay = 0;
  bench.run("undecayed");
  const auto undecayed = open_model(bench.dir.path() / "undecayed");
  const auto kept = undecayed->read_f32(undecayed->at(head));
  EXPECT_EQ(std::vector(before.begin() + 258 * width, before.end()),
            std::vector(kept.begin() + 258 * width, kept.end()));
}

TEST(Distill, RefusesAVocabularySmallerThanTheTokenizer) {
  Bench bench({.vocab_size = 257, .context_length = 32, .seed = 5});
  EXPECT_NE(bench.refusal(), "nothing was refused");
}

TEST(Distill, RefusesWhatCannotWork) {
  Bench bench;
  bench.options.sequence_length = 33;
  EXPECT_THAT(bench.refusal(), HasSubstr("longer than the models' context of 32"));
  bench.options.sequence_length = 0;
  write_text_file(bench.dir.path() / "text.txt", "too short");
  EXPECT_THAT(bench.refusal(), HasSubstr("less than two windows"));
}

TEST(Distill, KeepsUnderAMemoryLimitOrRefuses) {
  Bench bench;
  bench.run("free");
  bench.memory_limit = uint64_t{1} << 30;
  bench.run("limited");
  EXPECT_EQ(bench.digest("limited"), bench.digest("free"));
  bench.memory_limit = 1 << 20;
  EXPECT_THAT(bench.refusal(), HasSubstr("above the limit of 1.0 MiB"));
}

TEST(ShardsSideBySide, AreAsManyAsFit) {
  ThreadPool pool(4);
  ProgressSink sink;
  const auto fitting = [&](uint64_t limit) {
    return shards_side_by_side({.fixed = 100, .per_shard = 10}, "distill", "Give more",
                               {.threads = pool, .progress = sink, .memory_limit = limit});
  };
  EXPECT_EQ(fitting(0), 4);
  EXPECT_EQ(fitting(1000), 4);
  EXPECT_EQ(fitting(139), 3);
  EXPECT_EQ(fitting(110), 1);
  EXPECT_THROW(fitting(109), Error);
}

TEST(Distill, StopsWhenTheLossIsNotFinite) {
  Bench bench;
  bench.options.learning_rate = 10;
  bench.options.warmup = 0;
  bench.options.clip = 0;
  bench.options.steps = 200;
  bench.options.weight_decay = 10;  // (1 - 100)^n
  EXPECT_THAT(bench.refusal(), HasSubstr("not finite"));
}

}  // namespace
}  // namespace retort
