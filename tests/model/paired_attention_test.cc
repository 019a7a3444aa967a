// Attention by pair products against Torch's in float32.
#include "model/paired_attention.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/attention.h"
#include "model/pair_products.h"

namespace retort {
namespace {

struct Shape {
  int64_t heads, kv_heads, tokens, size, window;
};

class PairedAttention : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_pair_products()) GTEST_SKIP() << "this processor does not multiply bfloat16";
    at::manual_seed(3);
  }
  static at::Tensor states(int64_t heads, int64_t tokens, int64_t size) {
    return at::randn({2, tokens, heads, size}).to(at::kBFloat16).transpose(1, 2);
  }
};

TEST_F(PairedAttention, EqualsThatInFloat32UpToRoundingToBfloat16) {
  const at::NoGradGuard no_grad;
  for (const Shape& s : {Shape{1, 1, 1, 32, 0},
                         {2, 1, 7, 64, 0},
                         {4, 2, 32, 64, 0},
                         {4, 4, 33, 96, 0},
                         {4, 2, 131, 64, 0},
                         {2, 1, 100, 128, 5},
                         {2, 2, 77, 64, 40},
                         {2, 1, 20, 32, 20}}) {
    // Large scores too: one weight is nearly all there is.
    for (const double spread : {1.0, 6.0}) {
      const at::Tensor q = states(s.heads, s.tokens, s.size) * spread, k = states(s.kv_heads, s.tokens, s.size),
                       v = states(s.kv_heads, s.tokens, s.size);
      ASSERT_TRUE(attends_in_pairs(q, k));
      const at::Tensor got = attend_in_pairs(q, k, v, s.window).to(at::kFloat);
      const at::Tensor expected = attend(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), s.window);
      ASSERT_EQ(got.sizes(), expected.sizes());
      // Weights and results have 8 significant bits each.
      const double allowed = v.to(at::kFloat).abs().max().item<double>() * 0x1p-8;
      EXPECT_LT((got - expected).abs().max().item<double>(), allowed)
          << s.tokens << " tokens, head of " << s.size << ", window " << s.window << ", spread " << spread;
    }
  }
}

// One score far above or below the others, and values that are no numbers, do what they do in Torch's attention.
TEST_F(PairedAttention, HoldsWithHugeScoresAndPassesNaNOn) {
  const at::NoGradGuard no_grad;
  at::Tensor q = states(1, 40, 32), k = states(1, 40, 32), v = states(1, 40, 32);
  q.select(2, 20).mul_(1e18);
  k.select(2, 3).mul_(1e18);
  const at::Tensor got = attend_in_pairs(q, k, v, 0).to(at::kFloat);
  const at::Tensor expected = attend(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), 0);
  EXPECT_TRUE(at::isfinite(got).all().item<bool>());
  EXPECT_LT((got - expected).abs().max().item<double>(), v.to(at::kFloat).abs().max().item<double>() * 0x1p-8);
  q.select(2, 20).fill_(std::nanf(""));
  const at::Tensor wrong = at::isnan(attend_in_pairs(q, k, v, 0)).any(-1).any(0).squeeze();
  for (int64_t token = 0; token < 40; ++token) EXPECT_EQ(wrong[token].item<bool>(), token == 20) << token;
}

TEST_F(PairedAttention, IsOnlyForWholeTextsWithoutGradients) {
  const at::Tensor q = states(2, 8, 64), k = states(2, 8, 64);
  EXPECT_FALSE(attends_in_pairs(q, k)) << "in gradient mode";
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(attends_in_pairs(q, k));
  EXPECT_FALSE(attends_in_pairs(q.slice(2, 7), k)) << "with a cache";
  EXPECT_FALSE(attends_in_pairs(q.to(at::kFloat), k.to(at::kFloat)));
  EXPECT_FALSE(attends_in_pairs(states(2, 8, 24), states(2, 8, 24)));
}

}  // namespace
}  // namespace retort
