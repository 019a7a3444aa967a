// The smallest --memory that a refusal names is enough, for every format: what the program takes under it is no more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>

#include "core/base/json.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
const std::string kTeacher = std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart/teacher";

// 34 million weights: 32 rows of down_proj are two runs' worth, and the embedding is far larger than a run.
const char* const kConfig = R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8192,
  "hidden_size": 512, "intermediate_size": 16384, "num_hidden_layers": 1, "num_attention_heads": 8,
  "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
  "tie_word_embeddings": false, "hidden_act": "silu"})";

struct Case {
  const char *format, *scheme, *threads;
  std::vector<std::string> options = {};
};

class ExportMemory : public ::testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    directory_ = testing::fresh_directory("export-memory");
    testing::write_file(directory_ / "config.json", kConfig);
    run({"init", "--config", "config.json", "--tokenizer", kTeacher, "--output", "dense"});
    for (const char* scheme : {"int4-g32-asym", "q8_0"})
      run({"quantize", "dense", "--scheme", scheme, "--method", "rtn", "--output", scheme});
    for (const char* format : {"gptq", "awq"})
      run({"export", "int4-g32-asym", "--format", format, "--output", std::string("made-") + format});
  }
  static void TearDownTestSuite() { fs::remove_all(directory_); }

  static testing::Finished retort(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), RETORT_PROGRAM);
    arguments.emplace_back("--quiet");
    return testing::run(arguments, directory_);
  }
  static void run(std::vector<std::string> arguments) {
    const testing::Finished done = retort(std::move(arguments));
    ASSERT_EQ(done.code, 0) << done.err;
  }
  static testing::Finished exported(const Case& which, const std::string& memory) {
    std::vector<std::string> arguments{"export",    which.scheme,  "--format", which.format, "--output", "out",
                                       "--threads", which.threads, "--memory", memory,       "--json",   "--overwrite"};
    arguments.insert(arguments.end(), which.options.begin(), which.options.end());
    return retort(arguments);
  }

  static void keeps_the_smallest_limit();

  static inline fs::path directory_;
};

void ExportMemory::keeps_the_smallest_limit() {
  fs::remove_all(directory_ / "out");
  const testing::Finished refused = exported(GetParam(), "1MiB");
  std::smatch found;
  ASSERT_TRUE(std::regex_search(refused.err, found, std::regex("--memory ([0-9]+)MiB"))) << refused.err;
  const testing::Finished done = exported(GetParam(), found[1].str() + "MiB");
  ASSERT_EQ(done.code, 0) << done.err;
  const auto peak = parse_json(done.out, "output")["peak_rss_bytes"].get<uint64_t>();
  EXPECT_LE(peak, std::stoull(found[1]) << 20);
  EXPECT_GT(peak, std::stoull(found[1]) << 17) << "the estimate is of no use";
}

TEST_P(ExportMemory, KeepsTheSmallestLimit) { keeps_the_smallest_limit(); }

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* threads : {"1", "8"}) {
    all.insert(all.end(), {{"gguf", "q8_0", threads},
                           {"onnx", "int4-g32-asym", threads},
                           {"onnx", "int4-g32-asym", threads, {"--operators", "standard"}},
                           {"gptq", "int4-g32-asym", threads},
                           {"awq", "int4-g32-asym", threads},
                           {"compressed-tensors", "int4-g32-asym", threads},
                           {"mlx", "int4-g32-asym", threads},
                           {"gguf", "made-gptq", threads},
                           {"gptq", "made-awq", threads},
                           {"hf", "q8_0", threads},
                           {"hf", "dense", threads, {"--type", "f32"}},
                           {"gguf", "int4-g32-asym", threads, {"--type", "f16"}}});
  }
  return all;
}

// Its lines hold pieces of all rows, and a matrix has more bytes than what an estimate has to spare.
class ConvertedMemory : public ExportMemory {
 protected:
  static void SetUpTestSuite() {
    directory_ = testing::fresh_directory("converted-memory");
    Json config = parse_json(kConfig, "config");
    config["intermediate_size"] = 98304;
    testing::write_file(directory_ / "config.json", config.dump());
    run({"init", "--config", "config.json", "--tokenizer", kTeacher, "--output", "dense"});
    run({"quantize", "dense", "--scheme", "int8-g128-sym", "--method", "rtn", "--output", "int8"});
    run({"export", "int8", "--format", "gptq", "--output", "made-gptq"});
  }
};

TEST_P(ConvertedMemory, KeepsTheSmallestLimit) { keeps_the_smallest_limit(); }

INSTANTIATE_TEST_SUITE_P(All, ConvertedMemory,
                         ::testing::Values(Case{"hf", "made-gptq", "1"}, Case{"gptq", "made-gptq", "2"},
                                           Case{"gptq", "int8", "2"}),
                         [](const auto& info) { return std::string(info.param.format) + std::to_string(info.index); });

INSTANTIATE_TEST_SUITE_P(All, ExportMemory, ::testing::ValuesIn(cases()), [](const auto& info) {
  std::string name = std::string(info.param.format) + "_" + info.param.scheme + "_" + info.param.threads;
  for (const std::string& option : info.param.options) name += "_" + option;
  std::erase(name, '-');
  return name;
});

}  // namespace
}  // namespace retort
