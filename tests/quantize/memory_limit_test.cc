// The smallest --memory that a refusal names is enough: what the program takes under it is no more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>

#include "core/base/json.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
const std::string kQuickstart = std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart/";

// 33 million weights in bf16: 66 MB, of which embedding and head are two fifths each.
const char* const kConfig = R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 24576,
  "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 8,
  "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
  "tie_word_embeddings": false, "hidden_act": "silu"})";

class MemoryLimit : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = testing::fresh_directory("memory-limit");
    testing::write_file(directory_ / "config.json", kConfig);
    const auto made = testing::run({RETORT_PROGRAM, "init", "--config", "config.json", "--tokenizer",
                                    kQuickstart + "teacher", "--output", "model", "--quiet"},
                                   directory_);
    ASSERT_EQ(made.code, 0) << made.err;
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }

  static testing::Finished quantize(std::vector<std::string> options, const std::string& memory) {
    std::vector<std::string> command{RETORT_PROGRAM, "quantize", "model",    "--memory", memory,
                                     "--quiet",      "--json",   "--output", "out",      "--overwrite"};
    if (std::ranges::find(options, "--threads") == options.end()) options.insert(options.end(), {"--threads", "2"});
    command.insert(command.end(), options.begin(), options.end());
    return testing::run(command, directory_);
  }

  static void keeps_the_smallest_limit(const std::vector<std::string>& options) {
    const testing::Finished refused = quantize(options, "1MiB");
    std::smatch found;
    ASSERT_TRUE(std::regex_search(refused.err, found, std::regex("--memory ([0-9]+)MiB"))) << refused.err;
    const testing::Finished done = quantize(options, found[1].str() + "MiB");
    ASSERT_EQ(done.code, 0) << done.err;
    const auto peak = parse_json(done.out, "output")["peak_rss_bytes"].get<uint64_t>();
    EXPECT_LE(peak, std::stoull(found[1]) << 20);
    EXPECT_GT(peak, std::stoull(found[1]) << 18) << "the estimate is of no use";
  }

  static std::vector<std::string> calibrated(const std::string& method, const std::vector<std::string>& more = {}) {
    std::vector<std::string> options{"--method",          method,
                                     "--scheme",          "int4-g128-sym",
                                     "--calibration",     kQuickstart + "heldout.txt",
                                     "--samples",         "8",
                                     "--sequence-length", "64"};
    options.insert(options.end(), more.begin(), more.end());
    return options;
  }

  static inline fs::path directory_;
};

TEST_F(MemoryLimit, IsKeptByRtn) { keeps_the_smallest_limit({"--scheme", "int4-g128-sym"}); }
TEST_F(MemoryLimit, IsKeptByRtnWithAGridForTheMatrix) { keeps_the_smallest_limit({"--scheme", "int8-tensor-sym"}); }
TEST_F(MemoryLimit, IsKeptByRtnWithManyThreads) { keeps_the_smallest_limit({"--scheme", "q8_0", "--threads", "16"}); }
TEST_F(MemoryLimit, IsKeptWhereTensorsStayDense) {
  keeps_the_smallest_limit({"--scheme", "int4", "--keep", "*=f16", "--threads", "16"});
}
TEST_F(MemoryLimit, IsKeptByImatrix) { keeps_the_smallest_limit(calibrated("imatrix")); }
TEST_F(MemoryLimit, IsKeptByGptq) { keeps_the_smallest_limit(calibrated("gptq")); }
TEST_F(MemoryLimit, IsKeptByGptqThatFollowsTheFloatModel) {
  keeps_the_smallest_limit(calibrated("gptq", {"--aim", "float"}));
}
TEST_F(MemoryLimit, IsKeptByAwq) { keeps_the_smallest_limit(calibrated("awq")); }

}  // namespace
}  // namespace retort
