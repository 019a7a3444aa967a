#include "model/training/schedule.h"

#include <gtest/gtest.h>

namespace retort {
namespace {

TEST(RateFactor, WarmsUpAndFallsAsACosine) {
  EXPECT_DOUBLE_EQ(rate_factor(0, 0.1), 0);
  EXPECT_DOUBLE_EQ(rate_factor(0.05, 0.1), 0.5);
  EXPECT_DOUBLE_EQ(rate_factor(0.1, 0.1), 1);
  EXPECT_DOUBLE_EQ(rate_factor(0.55, 0.1), 0.5);    // half of the way down
  EXPECT_NEAR(rate_factor(0.4, 0.1), 0.75, 1e-12);  // a third: (1 + cos 60 degrees) / 2
  EXPECT_NEAR(rate_factor(0.7, 0.1), 0.25, 1e-12);
  EXPECT_NEAR(rate_factor(1, 0.1), 0, 1e-12);
  EXPECT_NEAR(rate_factor(1.3, 0.1), 0, 1e-12);  // a clock may overrun
}

TEST(RateFactor, TakesNoWarmupAndNothingButWarmup) {
  EXPECT_DOUBLE_EQ(rate_factor(0, 0), 1);
  EXPECT_DOUBLE_EQ(rate_factor(0.5, 0), 0.5);
  EXPECT_DOUBLE_EQ(rate_factor(0.5, 1), 0.5);
  EXPECT_DOUBLE_EQ(rate_factor(1, 1), 1);
}

TEST(ShareDone, FollowsWhatEndsFirst) {
  EXPECT_DOUBLE_EQ(share_done({.steps = 10}, 3, 1e9), 0.3);
  EXPECT_DOUBLE_EQ(share_done({.seconds = 60}, 1000, 15), 0.25);
  EXPECT_DOUBLE_EQ(share_done({.steps = 10, .seconds = 60}, 3, 30), 0.5);
  EXPECT_DOUBLE_EQ(share_done({.steps = 10, .seconds = 60}, 10, 30), 1);
}

}  // namespace
}  // namespace retort
