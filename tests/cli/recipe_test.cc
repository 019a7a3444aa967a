// Recipes, by running a program with stub operations that count their executions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>

#include "core/base/digest.h"
#include "core/base/json.h"
#include "recipes/gate.h"
#include "recipes/stage_cache.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::Finished;
using ::testing::HasSubstr;
using testing::read_file;
using testing::write_file;

constexpr const char* kChain = R"(
variables:
  source: source.txt
  steps: 10
stages:
  scored:
    operation: score
    model: second
    perplexity: 20
  first:
    operation: make
    data: ${source}
    text: one
  second:
    operation: make
    model: first
    text: two
    steps: ${steps}
  other: {operation: make, text: three}
  packed: {operation: pack, model: second, format: gguf}
gates:
  - scored.perplexity < 30
)";

class RecipeRun : public ::testing::Test {
 protected:
  RecipeRun() { write_file(directory_ / "source.txt", "some text"); }

  Finished run(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{RETORT_STUB, "run", "r.yaml", "-o", "out"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    fs::remove(directory_ / "executions.log");
    return testing::run(arguments, directory_);
  }
  Finished run_recipe(const std::string& text, std::vector<std::string> more = {}) {
    write_file(directory_ / "r.yaml", text);
    return run(std::move(more));
  }
  // What ran, in order.
  std::string executed() const { return read_file(directory_ / "executions.log"); }
  Json report() const { return read_json_file(directory_ / "out/report.json"); }

  fs::path directory_ = testing::fresh_directory("recipe");
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

TEST_F(RecipeRun, RunsStagesAfterWhatTheyName) {
  const Finished result = run_recipe(kChain);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(executed(), "make one\nmake two\nscore\nmake three\n");
  EXPECT_EQ(read_file(directory_ / "out/first/content"), "one 10 " + digest_of("some text"));
  EXPECT_EQ(read_file(directory_ / "out/second/content"), "two 10 " + digest_of_path(directory_ / "out/first"));
  EXPECT_EQ(read_file(directory_ / "out/packed.gguf"), digest_of_path(directory_ / "out/second"));
  EXPECT_THAT(result.err, HasSubstr("  second               make       to run\n"));
  EXPECT_THAT(result.out, HasSubstr("20.000"));
  EXPECT_THAT(result.out, HasSubstr("gate  scored.perplexity < 30  20  passed"));
}

TEST_F(RecipeRun, RedoesNothingWhenNothingChanged) {
  run_recipe(kChain);
  const std::string first = read_file(directory_ / "out/.cache/digests.json");
  const Finished again = run({"--json"});
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(executed(), "");
  const Json json = parse_json(again.out, "standard output");
  ASSERT_EQ(json["stages"].size(), 5u);
  for (const Json& stage : json["stages"]) EXPECT_TRUE(stage["cached"].get<bool>()) << stage;
  EXPECT_EQ(json["stages"][2]["metrics"]["perplexity"], 20.0);
}

TEST_F(RecipeRun, RedoesWhatAChangeReaches) {
  run_recipe(kChain);
  run_recipe(replaced(kChain, "text: two", "text: TWO"));
  EXPECT_EQ(executed(), "make TWO\nscore\n");
  run_recipe(kChain);
  EXPECT_EQ(executed(), "") << "the first results are still there";
  EXPECT_EQ(read_file(directory_ / "out/second/content").substr(0, 3), "two");
}

TEST_F(RecipeRun, RedoesWhatAChangedInputReaches) {
  run_recipe(kChain);
  write_file(directory_ / "source.txt", "other text");
  run();
  EXPECT_EQ(executed(), "make one\nmake two\nscore\n");
}

TEST_F(RecipeRun, RedoesAResultThatWasTouchedOrLost) {
  run_recipe(kChain);
  write_file(directory_ / "out/second/content", "spoilt");
  run();
  EXPECT_EQ(executed(), "make two\n") << "the same bytes again, so nothing behind it";
  for (const auto& entry : fs::directory_iterator(directory_ / "out/.cache"))
    if (fs::is_directory(entry)) write_file(entry.path() / "stage.json", "{");
  run();
  EXPECT_EQ(executed(), "make one\nmake two\nscore\nmake three\n");
}

TEST_F(RecipeRun, DependsOnSeedAndDeviceButNotOnThreads) {
  run_recipe(kChain);
  EXPECT_EQ(run({"--threads", "1"}).code, 0);
  EXPECT_EQ(executed(), "");
  run({"--seed", "1"});
  EXPECT_NE(executed(), "");
  run_recipe(std::string("seed: 1\nthreads: 1\n") + kChain);
  EXPECT_EQ(executed(), "");
  EXPECT_EQ(report()["threads"], 1);
  EXPECT_EQ(report()["seed"], 1);
}

TEST_F(RecipeRun, TwoRunsGiveTheSameBytes) {
  run_recipe(kChain);
  testing::run({RETORT_STUB, "run", "r.yaml", "-o", "again"}, directory_);
  for (const char* name : {"first", "second", "packed.gguf"})
    EXPECT_EQ(digest_of_path(directory_ / "out" / name), digest_of_path(directory_ / "again" / name));
}

TEST_F(RecipeRun, ContinuesAfterAnInterruption) {
  const std::string recipe = "stages:\n  a: {operation: make}\n  b: {operation: train, steps: 2}\n";
  const Finished interrupted = run_recipe(recipe);
  EXPECT_EQ(interrupted.code, 130);
  EXPECT_FALSE(fs::exists(directory_ / "out/b"));
  EXPECT_EQ(run().code, 0);
  EXPECT_EQ(executed(), "train\n");
  EXPECT_EQ(read_file(directory_ / "out/b/state"), "2");
}

TEST_F(RecipeRun, KeepsWhatWasDoneBeforeAFailure) {
  const Finished failed = run_recipe("stages:\n  a: {operation: make}\n  b: {operation: trouble, kind: error}\n");
  EXPECT_EQ(failed.code, 1);
  EXPECT_EQ(failed.last_error_line(), "retort: [trouble] tensor 'x': it is broken. Mend it");
  EXPECT_FALSE(fs::exists(directory_ / "out/b"));
  run();
  EXPECT_EQ(executed(), "");
}

TEST_F(RecipeRun, EndsWithThreeWhenAStageFellBackAlsoWhenCached) {
  const std::string recipe = "stages:\n  a: {operation: make, fall-back: true}\n";
  EXPECT_EQ(run_recipe(recipe).code, 3);
  EXPECT_EQ(run().code, 3);
  EXPECT_EQ(executed(), "");
}

TEST_F(RecipeRun, EndsWithThreeWhenAGateFails) {
  const Finished result = run_recipe(replaced(kChain, "< 30", "< 20"));
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.out, HasSubstr("FAILED"));
  EXPECT_EQ(report()["gates"][0]["passed"], false);
  EXPECT_EQ(run_recipe(replaced(kChain, "< 30", "<= 20")).code, 0);
  EXPECT_EQ(run_recipe(replaced(kChain, "perplexity: 20", "perplexity: 0")).code, 3) << "not a number passes no gate";
}

TEST_F(RecipeRun, ComparesMetricsOfStages) {
  const std::string stages =
      "stages:\n  a: {operation: make}\n  b: {operation: score, model: a, gates: [kl_mean < 0.3]}\n"
      "  c: {operation: score, model: a, perplexity: 13}\ngates: [";
  EXPECT_EQ(run_recipe(stages + "c.perplexity < 1.05 * b.perplexity, a.bytes < 100]\n").code, 0);
  EXPECT_EQ(run_recipe(stages + "c.perplexity < 1.03 * b.perplexity]\n").code, 3);
}

TEST_F(RecipeRun, TakesVariablesFromTheCommandLine) {
  run_recipe(kChain, {"--set", "steps=12"});
  EXPECT_EQ(read_file(directory_ / "out/second/content").substr(0, 6), "two 12");
  fs::create_directories(directory_ / "recipes/data");
  write_file(directory_ / "recipes/data/x", "beside the recipe");
  write_file(directory_ / "here", "in the current directory");
  write_file(directory_ / "recipes/s.yaml", "variables: {x: data/x}\nstages:\n  a: {operation: make, data: '${x}'}\n");
  ASSERT_EQ(testing::run({RETORT_STUB, "run", "recipes/s.yaml"}, directory_).code, 0);
  EXPECT_EQ(read_file(directory_ / "s-out/a/content"), "nothing 10 " + digest_of("beside the recipe"));
  ASSERT_EQ(testing::run({RETORT_STUB, "run", "recipes/s.yaml", "--set", "x=here"}, directory_).code, 0);
  EXPECT_EQ(read_file(directory_ / "s-out/a/content"), "nothing 10 " + digest_of("in the current directory"));
}

TEST_F(RecipeRun, PrintsThePlanOnly) {
  const Finished result = run_recipe(kChain, {"--dry-run"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, HasSubstr("  packed               pack       to run\n"));
  EXPECT_EQ(executed(), "");
  EXPECT_FALSE(fs::exists(directory_ / "out"));
  run();
  EXPECT_THAT(run({"--dry-run"}).out, HasSubstr("  packed               pack       cached\n"));
}

TEST_F(RecipeRun, LeavesForeignFilesAlone) {
  fs::create_directories(directory_ / "out");
  write_file(directory_ / "out/mine", "mine");
  const Finished refused = run_recipe(kChain);
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(refused.last_error_line(),
            "retort: [run] out: it exists and no recipe made it. Give another --output, or --overwrite");
  EXPECT_EQ(run({"--overwrite"}).code, 0);
  EXPECT_EQ(read_file(directory_ / "out/mine"), "mine");
  run({"--overwrite"});
  EXPECT_EQ(executed(), "make one\nmake two\nscore\nmake three\n");
}

struct WrongRecipe {
  const char* name;
  std::string text, message;
};

class RecipeRefusal : public RecipeRun, public ::testing::WithParamInterface<WrongRecipe> {};

TEST_P(RecipeRefusal, NamesTheLineAndTheNearest) {
  const Finished result = run_recipe(GetParam().text);
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.last_error_line(), "retort: [recipe] " + GetParam().message);
  EXPECT_FALSE(fs::exists(directory_ / "out"));
}

const WrongRecipe kWrong[] = {
    {"NoYaml", "stages: [", "r.yaml:1: end of sequence flow not found"},
    {"Empty", "", "r.yaml:1: recipe: it must be a map of names to values"},
    {"NoStages", "seed: 1\n", "r.yaml:1: stages: the key is missing"},
    {"TopKey", "\nstagse:\n", "r.yaml:2: stagse: there is no such key. The nearest is 'stages'"},
    {"Seed", "stages:\n  a: {operation: make}\nseed: x\n", "r.yaml:3: seed: 'x' is not an integer"},
    {"Device", "device: gpu\n", "r.yaml:1: device: 'gpu' is no device. Give cpu, cuda or cuda:N"},
    {"StageName", "stages:\n  ../a: {operation: make}\n",
     "r.yaml:2: '../a': a stage's name is made of letters, digits, - and _"},
    {"TwiceNamed", "stages:\n  a: {operation: make}\n  a: {operation: make}\n", "r.yaml:3: a: it is given twice"},
    {"NoOperation", "stages:\n  a: {text: x}\n", "r.yaml:2: a: its operation is missing. Add a key 'operation'"},
    {"UnknownOperation", "stages:\n  a: {operation: mkae}\n",
     "r.yaml:2: a.operation: there is no operation 'mkae' for a stage. The nearest is 'make'"},
    {"NoStageOperation", "stages:\n  a: {operation: run}\n",
     "r.yaml:2: a.operation: there is no operation 'run' for a stage. The nearest is 'train'"},
    {"UnknownKey", "stages:\n  a:\n    operation: make\n    stesp: 3\n",
     "r.yaml:4: stesp: there is no such key. The nearest is 'steps'"},
    {"WrongValue", "stages:\n  a:\n    operation: make\n    steps: 3.5\n",
     "r.yaml:4: a.steps: '3.5' is not an integer"},
    {"FileBesideTheResult", "stages:\n  a:\n    operation: make\n    save: b\n",
     "r.yaml:4: a.save: it names a file outside the stage's result, which a stage that was done before would not write "
     "again. Write that file with a command of its own"},
    {"MissingParameter", "stages:\n  a:\n    operation: score\n",
     "r.yaml:3: a.model: it is required and was not given"},
    {"UnknownStage", "stages:\n  made: {operation: make}\n  b: {operation: score, model: mode}\n",
     "r.yaml:3: b.model: 'mode' is neither a stage nor a file (mode). The nearest stage is 'made'"},
    {"NoResult",
     "stages:\n  a: {operation: make}\n  b: {operation: score, model: a}\n  c: {operation: make, model: b}\n",
     "r.yaml:4: c.model: the stage 'b' has no result that another can read"},
    {"Cycle", "stages:\n  a: {operation: make, model: b}\n  b: {operation: make, model: a}\n",
     "r.yaml:2: stages: these wait for each other: 'a', 'b'"},
    {"UnknownVariable", "variables: {source: x}\nstages:\n  a: {operation: make, text: '${sauce}'}\n",
     "r.yaml:3: a.text: there is no variable 'sauce'. The nearest is 'source'"},
    {"OpenVariable", "stages:\n  a: {operation: make, text: '${x'}\n", "r.yaml:2: a.text: '${' without '}'"},
    {"NoGate", "stages:\n  a: {operation: make}\ngates:\n  - a.b is small\n",
     "r.yaml:4: gates: 'a.b is small' is no condition. Write it as STAGE.KEY < NUMBER"},
    {"GateWithoutStage", "stages:\n  a: {operation: make}\ngates:\n  - kl_mean < 1\n",
     "r.yaml:4: gates: 'kl_mean < 1' is no condition. Write it as STAGE.KEY < NUMBER"},
    {"GateOfUnknownStage", "stages:\n  scored: {operation: make}\ngates:\n  - score.x < 1\n",
     "r.yaml:4: gates: there is no stage 'score'. The nearest is 'scored'"},
};
INSTANTIATE_TEST_SUITE_P(All, RecipeRefusal, ::testing::ValuesIn(kWrong),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(RecipeRun, RefusesWrongSettings) {
  EXPECT_EQ(run_recipe(kChain, {"--set", "stesp=1"}).last_error_line(),
            "retort: [recipe] --set stesp: the recipe has no such variable. The nearest is 'steps'");
  EXPECT_EQ(run({"--set", "steps"}).last_error_line(),
            "retort: [run] --set: 'steps' is no setting. Write it as NAME=VALUE");
}

TEST_F(RecipeRun, NamesAMetricThatWasNotMeasured) {
  const Finished result = run_recipe(replaced(kChain, "scored.perplexity", "scored.perplexty"));
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.last_error_line(),
            "retort: [run] scored.perplexty: the stage did not measure this. The nearest is 'perplexity'");
}

TEST(Gate, ReadsConditions) {
  const auto none = [](const Metric&) { return 0.0; };
  EXPECT_TRUE(evaluate_gate(*parse_gate("1 <= 1", ""), none).passed);
  EXPECT_FALSE(evaluate_gate(*parse_gate("1 < 1", ""), none).passed);
  EXPECT_TRUE(evaluate_gate(*parse_gate("1 >= 0.5 * 2", ""), none).passed);
  EXPECT_TRUE(evaluate_gate(*parse_gate("kl > -1e-3", "a"), none).passed);
  EXPECT_EQ(parse_gate("s-1.kl_mean<0.05", "")->left.stage, "s-1");
  for (const char* wrong : {"", "a.b", "a.b < ", "a.b == 1", ".b < 1", "a. < 1", "a.b < x * 1", "a.b < 1 < 2"})
    EXPECT_FALSE(parse_gate(wrong, "").has_value()) << wrong;
}

TEST(DigestMemo, ReadsAFileAgainOnlyWhenItChanged) {
  const fs::path directory = testing::fresh_directory("memo");
  fs::create_directories(directory / "model");
  write_file(directory / "model/a", "first");
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(1);
  fs::last_write_time(directory / "model/a", old);
  DigestMemo memo(directory / "store.json");
  const std::string digest = memo.of(directory / "model");
  EXPECT_EQ(digest, digest_of_path(directory / "model"));
  memo.save();
  write_file(directory / "model/a", "other");  // same size; the time put back: the memo must be what answers
  fs::last_write_time(directory / "model/a", old);
  EXPECT_EQ(DigestMemo(directory / "store.json").of(directory / "model"), digest);
  fs::last_write_time(directory / "model/a", old + std::chrono::seconds(1));
  EXPECT_EQ(DigestMemo(directory / "store.json").of(directory / "model"), digest_of_path(directory / "model"));
  write_file(directory / "model/retort.json", "how long it took");
  EXPECT_EQ(DigestMemo(directory / "store.json").of(directory / "model"), memo.of(directory / "model"));
  fs::remove(directory / "model/retort.json");
  write_file(directory / "store.json", "[damaged");
  EXPECT_EQ(DigestMemo(directory / "store.json").of(directory / "model"), digest_of_path(directory / "model"));
}

}  // namespace
}  // namespace retort
