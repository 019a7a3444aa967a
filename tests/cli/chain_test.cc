// The whole chain of commands on a real model, by one recipe.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/base/digest.h"
#include "core/base/files.h"
#include "core/base/json.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::Finished;

const std::string kData = std::string(RETORT_SOURCE_DIR) + "/../shared/data";

class Chain : public ::testing::Test {
 protected:
  Finished run(const std::string& output, const std::string& threads) {
    return testing::run({RETORT_PROGRAM, "run", std::string(RETORT_SOURCE_DIR) + "/tests/cli/stories260k.yaml", "--set",
                         "teacher=" + kData + "/weights/stories260K-hf", "--set",
                         "text=" + kData + "/text/tinystories-500/stories.jsonl", "-o", output, "--threads", threads},
                        directory_);
  }
  static const Json& stage(const Json& report, const std::string& name) {
    return *std::find_if(report["stages"].begin(), report["stages"].end(),
                         [&](const Json& s) { return s["stage"] == name; });
  }
  fs::path directory_ = testing::fresh_directory("chain");
};

TEST_F(Chain, GoesThroughFallbacksTwiceToTheSameBytes) {
  if (!fs::exists(kData)) GTEST_SKIP() << "the models and texts of " << kData << " are absent";
  const Finished first = run("first", "2");
  ASSERT_EQ(first.code, 3) << first.err << first.out;
  const Json report = read_json_file(directory_ / "first/report.json");
  EXPECT_FALSE(stage(report, "quantized")["as_asked"].get<bool>()) << "172 is no multiple of 32";
  EXPECT_TRUE(stage(report, "student")["as_asked"].get<bool>());
  for (const Json& gate : report["gates"]) EXPECT_TRUE(gate["passed"].get<bool>()) << gate;
  for (const char* check : {"gguf-check", "onnx-check", "gptq-check"}) {
    EXPECT_EQ(stage(report, check)["metrics"]["codes_different"], 0) << check;
    EXPECT_EQ(stage(report, check)["metrics"]["scales_different"], 0) << check;
  }

  ASSERT_EQ(run("second", "1").code, 3);
  const Json again = read_json_file(directory_ / "second/report.json");
  for (const Json& done : report["stages"])
    EXPECT_EQ(done["digest"], stage(again, done["stage"])["digest"]) << done["stage"];

  ASSERT_EQ(run("first", "2").code, 3);
  for (const Json& done : read_json_file(directory_ / "first/report.json")["stages"])
    EXPECT_TRUE(done["cached"].get<bool>()) << done["stage"];
}

// What needs no LibTorch is done without the program that has it; the rest says which file is missing.
TEST(Alone, DoesWhatNeedsNoLibTorch) {
  const fs::path directory = testing::fresh_directory("alone");
  fs::copy_file(RETORT_PROGRAM, directory / "retort");
  const auto quantize = [&](const std::string& method) {
    return testing::run(
        {directory / "retort", "quantize", std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart/teacher", "--scheme",
         "q4_0", "--method", method, method == "rtn" ? "--quiet" : "--calibration=" RETORT_SOURCE_DIR "/README.md",
         "--output", method},
        directory);
  };
  EXPECT_EQ(quantize("rtn").code, 0);
  for (const char* method : {"gptq", "awq", "imatrix"}) {
    const Finished finished = quantize(method);
    EXPECT_EQ(finished.code, 1) << method;
    EXPECT_THAT(finished.last_error_line(), ::testing::HasSubstr("retort-torch: No such file")) << method;
    EXPECT_FALSE(fs::exists(directory / method));
  }
  const std::string teacher = RETORT_SOURCE_DIR "/recipes/quickstart/teacher", text = RETORT_SOURCE_DIR "/README.md";
  const std::vector<std::vector<std::string>> others{
      {"prune", teacher, "--layers", "4", "--calibration", text, "--output", "out"},
      {"distill", "--teacher", teacher, "--student", teacher, "--data", text, "--output", "out"},
      {"run", RETORT_SOURCE_DIR "/recipes/quickstart.yaml", "--output", "out"},
      {"eval", teacher, "--text", text},
      {"quantize", teacher, "--scheme", "auto", "--size", "5bpw", "--calibration", text, "--output", "out"},
      {"quantize", teacher, "--scheme", "int4", "--tune-scales", "2", "--calibration", text, "--output", "out"}};
  for (std::vector<std::string> arguments : others) {
    const std::string command = arguments.front();
    arguments.insert(arguments.begin(), directory / "retort");
    const Finished finished = testing::run(arguments, directory);
    EXPECT_THAT(finished.last_error_line(), ::testing::HasSubstr("retort-torch: No such file")) << command;
  }
}

}  // namespace
}  // namespace retort
