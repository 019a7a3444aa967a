// What a person reads when quantize is done, and whether it was done as asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "recipes/operations/rows.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class QuantizeOperation : public ::testing::Test {
 protected:
  OperationResult quantize(Json params) {
    if (!fs::exists(temp_.path() / "model"))
      testing::write_tiny_model(temp_.path() / "model",
                                {.hidden_size = 256, .ffn_size = 512, .layers = 2, .head_dim = 64});
    params["model"] = (temp_.path() / "model").string();
    fs::remove_all(temp_.path() / "out");
    fs::create_directories(temp_.path() / "out");
    ThreadPool pool(2);
    ProgressSink sink;
    Context context{pool, sink};
    return kQuantizeOperation.run(check_params(kQuantizeOperation, params, "quantize"), temp_.path() / "out", context);
  }

  testing::TempDir temp_;
};

TEST_F(QuantizeOperation, SaysWhetherTheTargetLoadsTheResult) {
  const OperationResult held = quantize({{"scheme", "int4-g128-asym"}, {"for", "llama.cpp"}});
  EXPECT_TRUE(held.as_asked);
  EXPECT_THAT(held.text, HasSubstr("\nllama.cpp loads this as --format gguf\n  held there: int4-g128-asym as q5_0\n"));
  const OperationResult refused = quantize({{"scheme", "int3-g64-asym"}, {"for", "vllm"}});
  EXPECT_FALSE(refused.as_asked);
  EXPECT_THAT(refused.text, HasSubstr("\nvllm does not load this\n  model.layers.0.self_attn.q_proj.weight: "));
  EXPECT_THAT(refused.text, HasSubstr("the nearest that it loads is int4-g128-sym\n"));
  const OperationResult asked_by_none = quantize({{"scheme", "int3-g64-asym"}});
  EXPECT_TRUE(asked_by_none.as_asked);
  EXPECT_THAT(asked_by_none.text, Not(HasSubstr("load")));
}

// The ten that lost most, the worst first, as the JSON has them.
TEST_F(QuantizeOperation, PrintsTheWorstTen) {
  const OperationResult result =
      quantize({{"scheme", "int4-g32-sym"}, {"keep", {"*.0.mlp.up_proj.weight=int2-g32-sym"}}});
  std::vector<std::pair<double, std::string>> tensors;
  for (const Json& tensor : result.json["tensors"])
    if (tensor["relative_error"].get<double>() > 0)
      tensors.emplace_back(tensor["relative_error"].get<double>(), tensor["name"].get<std::string>());
  std::ranges::stable_sort(tensors, std::greater<>(), &std::pair<double, std::string>::first);
  ASSERT_GT(tensors.size(), 10u);
  std::istringstream lines(result.text.substr(result.text.find("largest relative errors\n")));
  std::string line, name;
  std::getline(lines, line);
  for (size_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(lines >> name);
    EXPECT_EQ(name, tensors[i].second) << i;
    std::getline(lines, line);
  }
  EXPECT_FALSE(lines >> name) << "an eleventh: " << name;
}

}  // namespace
}  // namespace retort
