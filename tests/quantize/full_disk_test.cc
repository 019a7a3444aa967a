// A disk that fills: a clear error, nothing under the asked name, and the same command continues to the same bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/digest.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

std::string command(const std::string& output) {
  const std::string data = std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart/";
  return std::string(RETORT_PROGRAM) + " quantize " + data +
         "teacher --scheme int4-g64-asym --method gptq --calibration " + data +
         "heldout.txt --samples 8 --sequence-length 128 -o " + output;
}

testing::Finished shell(const std::string& line, const fs::path& directory) {
  return testing::run({"/bin/sh", "-c", line}, directory);
}

// A write beyond the limit fails as one on a full disk does. The limit is in blocks of 512 bytes; the result has 4.8
// MB.
TEST(FullDisk, EndsWithAnErrorAndContinuesToTheSameBytes) {
  const fs::path directory = testing::fresh_directory("full");
  ASSERT_EQ(shell(command("whole"), directory).code, 0);
  for (const char* blocks : {"32", "700", "7000"}) {
    const testing::Finished stopped = shell(std::string("ulimit -f ") + blocks + "; " + command("full"), directory);
    EXPECT_EQ(stopped.code, 1) << stopped.err;
    EXPECT_EQ(stopped.lines_of_program(), 1);
    EXPECT_THAT(stopped.last_error_line(), ::testing::EndsWith(" Make room, and give the same command again"));
    EXPECT_FALSE(fs::exists(directory / "full"));
  }
  EXPECT_TRUE(fs::exists(directory / ".full.partial/calibration-state/layer-0.h5")) << "nothing to continue from";
  ASSERT_EQ(shell(command("full"), directory).code, 0);
  EXPECT_EQ(digest_of_path(directory / "full"), digest_of_path(directory / "whole"));
}

}  // namespace
}  // namespace retort
