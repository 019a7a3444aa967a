// The program stopped by SIGKILL continues where it was, to the same bytes.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "core/base/digest.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

// 16 samples: layers enough are left to do when the second is seen to be done.
std::vector<std::string> command(const std::string& method, const std::string& output) {
  const std::string data = std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart/";
  return {RETORT_PROGRAM,  "quantize",           data + "teacher", "--scheme", "int4-g64-asym",     "--method", method,
          "--calibration", data + "heldout.txt", "--samples",      "16",       "--sequence-length", "256",      "-o",
          output};
}

class Kill : public ::testing::TestWithParam<std::string> {};

TEST_P(Kill, AfterALayerTheSameCommandContinuesToTheSameBytes) {
  const fs::path directory = testing::fresh_directory("kill-" + GetParam());
  ASSERT_EQ(testing::run(command(GetParam(), "whole"), directory).code, 0);

  testing::Process process(command(GetParam(), "killed"), directory);
  const fs::path state = directory / ".killed.partial" / "calibration-state";
  while (!fs::exists(state / "layer-1.h5") && process.running())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  process.signal(SIGKILL);
  const testing::Finished killed = process.wait();
  ASSERT_EQ(killed.code, 128 + SIGKILL) << killed.err;
  EXPECT_FALSE(fs::exists(directory / "killed"));
  EXPECT_FALSE(fs::exists(state / "layer-5.h5")) << "it was finished before it was killed";

  ASSERT_EQ(testing::run(command(GetParam(), "killed"), directory).code, 0);
  EXPECT_EQ(digest_of_path(directory / "killed"), digest_of_path(directory / "whole"));
}

INSTANTIATE_TEST_SUITE_P(Methods, Kill, ::testing::Values("gptq", "awq"));

}  // namespace
}  // namespace retort
