#include "core/checkpoint/random_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

using testing::TempDir;

std::string write(const ModelConfig& config, const std::filesystem::path& directory, uint64_t seed, int threads,
                  DType type = DType::kBF16) {
  ThreadPool pool(threads);
  ProgressSink silent;
  Context context{.threads = pool, .progress = silent, .seed = seed};
  write_random_model(config, type, {}, directory, context);
  return digest_of_path(directory);
}

TEST(RandomModel, NumbersFollowTheNormalDistribution) {
  std::vector<float> values(size_t{1} << 20);
  fill_normal(12345, 0, values);
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0, distance = 0;  // distance: Kolmogorov and Smirnov's
  for (size_t i = 0; i < values.size(); ++i) {
    sum += values[i];
    squares += static_cast<double>(values[i]) * values[i];
    const double expected = std::erfc(-values[i] / std::sqrt(2.0)) / 2;
    distance = std::max(distance, std::abs((static_cast<double>(i) + 0.5) / n - expected));
  }
  EXPECT_NEAR(sum / n, 0, 4 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 4 * std::sqrt(2 / n));
  EXPECT_LT(distance, 1.95 / std::sqrt(n));  // exceeded by one honest sample in a thousand
  EXPECT_NEAR(values.back(), 4.33, 0.2);
}

TEST(RandomModel, AnElementDependsOnItsIndexAlone) {
  std::vector<float> whole(1000), part(101);
  fill_normal(7, 0, whole);
  fill_normal(7, 400, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 400));
  fill_normal(8, 400, part);
  EXPECT_FALSE(std::equal(part.begin(), part.end(), whole.begin() + 400));
}

TEST(RandomModel, WritesAModelThatIsReadBack) {
  for (const Family& family : families()) {
    testing::TinyModel model{.model_type = std::string(family.model_type), .hidden_size = 256, .extra = Json::object()};
    model.extra["initializer_range"] = 0.5;
    if (family.attention_bias) model.extra["attention_bias"] = true;
    const ModelConfig config = parse_config(testing::tiny_config(model), "tiny");
    const TempDir dir;
    write(config, dir.path(), 1, 2);
    const auto source = open_model(dir.path());
    EXPECT_EQ(source->config().dtype, DType::kBF16);
    for (const ModelTensor& tensor : source->tensors()) {
      const std::vector<float> values = source->read_f32(tensor);
      double squares = 0;
      for (const float value : values) squares += static_cast<double>(value) * value;
      const double deviation = std::sqrt(squares / static_cast<double>(values.size()));
      const double expected = tensor.shape.size() == 2 ? 0.5 : tensor.name.ends_with(".bias") ? 0 : 1;
      EXPECT_NEAR(deviation, expected, 0.02 * expected) << tensor.name;
    }
    EXPECT_NE(source->read_f32(source->at("model.layers.0.mlp.up_proj.weight")),
              source->read_f32(source->at("model.layers.1.mlp.up_proj.weight")));
  }
}

TEST(RandomModel, TheSeedAloneDecidesTheBytes) {
  testing::TinyModel model{.vocab_size = 20000, .hidden_size = 256, .extra = Json::object()};
  const ModelConfig config = parse_config(testing::tiny_config(model), "tiny");
  const TempDir a, b, c, d;
  const std::string digest = write(config, a.path(), 5, 1);
  EXPECT_EQ(write(config, b.path(), 5, 3), digest);
  EXPECT_NE(write(config, c.path(), 6, 1), digest);
  EXPECT_NE(write(config, d.path(), 5, 1, DType::kF32), digest);
}

}  // namespace
}  // namespace retort
