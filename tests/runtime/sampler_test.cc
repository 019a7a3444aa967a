#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>

#include "core/base/error.h"
#include "tests/support/memory_source.h"

namespace retort {
namespace {

using retort::testing::MemorySource;
using retort::testing::TinyModel;

std::map<int32_t, double> frequencies(const SamplingOptions& options, std::span<const float> logits) {
  constexpr int kDraws = 40000;
  std::map<int32_t, double> counts;
  Sampler sampler(options);
  for (int i = 0; i < kDraws; ++i) counts[sampler.next(logits)] += 1.0 / kDraws;
  return counts;
}

constexpr std::array<float, 5> kLogits{1.0f, 3.0f, -1.0f, 3.0f, 2.0f};

TEST(Sampler, GreedyTakesTheLowestOfTheLargest) { EXPECT_EQ(Sampler({.temperature = 0}).next(kLogits), 1); }

TEST(Sampler, FollowsTheSoftmax) {
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0;
    for (const float logit : kLogits) total += std::exp(logit / temperature);
    const auto drawn = frequencies({.temperature = temperature, .seed = 1}, kLogits);
    for (int32_t id = 0; id < 5; ++id) {
      const double p = std::exp(kLogits[static_cast<size_t>(id)] / temperature) / total;
      EXPECT_NEAR(drawn.contains(id) ? drawn.at(id) : 0.0, p, 4 * std::sqrt(p * (1 - p) / 40000) + 1e-9) << id;
    }
  }
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  const auto drawn = frequencies({.top_k = 2, .seed = 2}, kLogits);
  EXPECT_EQ(drawn.size(), 2u);
  EXPECT_NEAR(drawn.at(1), 0.5, 0.01);
  EXPECT_NEAR(drawn.at(3), 0.5, 0.01);
}

TEST(Sampler, TopPKeepsTheNucleus) {
  // The two largest hold 0.73 of the probability, the three largest 0.87.
  EXPECT_EQ(frequencies({.top_p = 0.7, .seed = 3}, kLogits).size(), 2u);
  EXPECT_EQ(frequencies({.top_p = 0.8, .seed = 3}, kLogits).size(), 3u);
  EXPECT_EQ(frequencies({.top_p = 1e-9, .seed = 3}, kLogits).size(), 1u);
}

TEST(Sampler, SameSeedSameTokens) {
  // The first outputs of splitmix64 from seed 0 (0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f) as
  // points of eight equal parts of [0, 1).
  const std::array<float, 8> equal{};
  Sampler sampler({.seed = 0});
  EXPECT_EQ(sampler.next(equal), 7);
  EXPECT_EQ(sampler.next(equal), 3);
  EXPECT_EQ(sampler.next(equal), 0);
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.5}), Error);
}

TEST(Generate, StopsWhereItShould) {
  ThreadPool threads(1);
  ProgressSink silent;
  Context context{threads, silent};
  const auto engine = load_engine(MemorySource(TinyModel(), parse_scheme("f32")), {}, context);
  const std::vector<int32_t> prompt{1, 2, 3};
  const SamplingOptions greedy{.temperature = 0};
  const auto all = generate(*engine, prompt, 12, greedy, {}, context);
  ASSERT_EQ(all.size(), 12u);
  const std::vector<int64_t> stop{all[5]};
  const auto before = static_cast<size_t>(std::find(all.begin(), all.end(), all[5]) - all.begin());
  EXPECT_EQ(generate(*engine, prompt, 12, greedy, stop, context).size(), before);
  int seen = 0;
  EXPECT_EQ(generate(*engine, prompt, 12, greedy, {}, context, [&](int32_t) { return ++seen < 4; }).size(), 4u);
  EXPECT_TRUE(generate(*engine, prompt, 0, greedy, {}, context).empty());
  EXPECT_THROW(generate(*engine, {}, 3, greedy, {}, context), Error);
}

}  // namespace
}  // namespace retort
