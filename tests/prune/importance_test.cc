// Scores against their definitions, token by token in float64.
#include "prune/importance.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/decoder.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

constexpr int64_t kWindows = 40, kLength = 64;  // more than one shard

struct Fixture {
  explicit Fixture(int threads, const testing::TinyModel& model = {}) : pool(threads) {
    testing::write_tiny_model(dir.path() / "model", model);
    source = open_model(dir.path() / "model");
    testing::Random random(4);
    windows = at::empty({kWindows, kLength}, at::kLong);
    for (int64_t i = 0; i < windows.numel(); ++i) windows.mutable_data_ptr<int64_t>()[i] = random.below(256);
  }
  testing::TempDir dir;
  ThreadPool pool;
  ProgressSink sink;
  Context context{.threads = pool, .progress = sink};
  std::unique_ptr<ModelSource> source;
  at::Tensor windows;
};

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double total_distance(const at::Tensor& before, const at::Tensor& after) {
  const int64_t width = before.size(-1);
  const float *a = before.const_data_ptr<float>(), *b = after.const_data_ptr<float>();
  double distance = 0;
  for (int64_t t = 0; t < before.numel() / width; ++t, a += width, b += width)
    distance += 1 - dot(a, b, width) / std::sqrt(dot(a, a, width) * dot(b, b, width));
  return distance;
}

Importance slow_importance(const ModelSource& source, const at::Tensor& windows) {
  const ModelConfig& config = source.config();
  const DecoderWeights weights = load_weights(source);
  Importance result{std::vector<double>(config.layers, 0.0),
                    {static_cast<size_t>(config.layers), std::vector<double>(config.ffn_size, 0.0)}};
  for (const at::Tensor& window : windows.split(1)) {
    at::Tensor hidden = embed(weights.top, window);
    for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
      at::Tensor mixed;
      const at::Tensor after =
          layer_forward(config, static_cast<int64_t>(layer), weights.layers[layer], hidden, nullptr,
                        [&](Input input, const at::Tensor& states) { mixed = input == Input::kFfn ? states : mixed; });
      const float* value = mixed.const_data_ptr<float>();
      for (int64_t i = 0; i < mixed.numel(); ++i)
        result.channels[layer][static_cast<size_t>(i % config.ffn_size)] += static_cast<double>(value[i]) * value[i];
      result.layers[layer] += total_distance(hidden, after) / static_cast<double>(windows.numel());
      hidden = after;
    }
  }
  for (auto& channels : result.channels)
    for (double& sum : channels) sum = std::sqrt(sum);
  return result;
}

void expect_equals_definition(const testing::TinyModel& model) {
  Fixture f(2, model);
  const Importance found = measure_importance(*f.source, f.windows, f.context);
  const Importance expected = slow_importance(*f.source, f.windows);
  ASSERT_EQ(found.layers.size(), expected.layers.size());
  for (size_t layer = 0; layer < expected.layers.size(); ++layer) {
    EXPECT_NEAR(found.layers[layer], expected.layers[layer], 1e-5);
    ASSERT_EQ(found.channels[layer].size(), expected.channels[layer].size());
    for (size_t i = 0; i < expected.channels[layer].size(); ++i)
      EXPECT_NEAR(found.channels[layer][i], expected.channels[layer][i], 1e-4 * expected.channels[layer][i]);
  }
}

TEST(Importance, EqualsItsDefinition) { expect_equals_definition({}); }

TEST(Importance, EqualsItsDefinitionWithBiasesAndWindows) {
  expect_equals_definition({.model_type = "llama", .extra = {{"attention_bias", true}, {"mlp_bias", true}}});
  expect_equals_definition({.model_type = "mistral", .window = 16});
}

TEST(Importance, IsTheSameForAnyNumberOfThreads) {
  Fixture one(1), three(3);
  const Importance a = measure_importance(*one.source, one.windows, one.context);
  const Importance b = measure_importance(*three.source, three.windows, three.context);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.channels, b.channels);
}

TEST(MostImportant, KeepsTheHighestInTheirOrder) {
  EXPECT_EQ(most_important(std::vector{0.3, 0.9, 0.1, 0.9, 0.5}, 3), (std::vector<int64_t>{1, 3, 4}));
  EXPECT_EQ(most_important(std::vector{0.5, 0.5, 0.5}, 2), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(most_important(std::vector{0.1, 0.2}, 2), (std::vector<int64_t>{0, 1}));
}

}  // namespace
}  // namespace retort
