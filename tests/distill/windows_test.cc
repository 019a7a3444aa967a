#include "distill/windows.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "core/base/error.h"

namespace retort {
namespace {

std::vector<int32_t> count_up(int64_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::vector<int32_t> pass_of(TrainingWindows& windows, int64_t pass) {
  std::vector<int32_t> starts;
  for (int64_t i = 0; i < windows.training(); ++i)
    starts.push_back(windows.training_window(pass * windows.training() + i)[0]);
  return starts;
}

TEST(TrainingWindows, CutsTheTextAndKeepsItsEndAside) {
  TrainingWindows windows(count_up(1000), 10, 7, 0);  // 99 windows: each needs the id after it
  EXPECT_EQ(windows.training(), 92);
  EXPECT_EQ(windows.held_out(), 7);
  const auto first = windows.held_out_window(0);
  EXPECT_EQ(first.size(), 11u);
  EXPECT_EQ(first.front(), 920);
  EXPECT_EQ(first.back(), 930);
  EXPECT_EQ(windows.held_out_window(6).back(), 990);
  const auto window = windows.training_window(0);
  EXPECT_EQ(window.size(), 11u);
  EXPECT_EQ(window.back() - window.front(), 10);
}

TEST(TrainingWindows, EachPassVisitsEveryWindowOnceInItsOwnOrder) {
  TrainingWindows windows(count_up(1000), 10, 7, 3);
  const auto first = pass_of(windows, 0), second = pass_of(windows, 1);
  EXPECT_NE(first, second);
  for (const auto& pass : {first, second}) {
    const std::set<int32_t> seen(pass.begin(), pass.end());
    EXPECT_EQ(seen.size(), 92u);
    EXPECT_EQ(*seen.rbegin(), 910);
  }
  EXPECT_FALSE(std::ranges::is_sorted(first));
}

TEST(TrainingWindows, OrderIsAFunctionOfSeedAndNumber) {
  TrainingWindows a(count_up(1000), 10, 7, 3), b(count_up(1000), 10, 7, 3), other(count_up(1000), 10, 7, 4);
  (void)pass_of(a, 0);
  EXPECT_EQ(pass_of(a, 1), pass_of(b, 1));  // b begins at the second pass, as a resumed run does
  EXPECT_EQ(pass_of(a, 0), pass_of(b, 0));
  EXPECT_NE(pass_of(a, 0), pass_of(other, 0));
}

TEST(TrainingWindows, HoldsAtMostATenthOut) {
  EXPECT_EQ(TrainingWindows(count_up(1000), 10, 50, 0).held_out(), 9);
  EXPECT_EQ(TrainingWindows(count_up(21), 10, 50, 0).held_out(), 1);
}

TEST(TrainingWindows, RefusesATextOfLessThanTwoWindows) {
  EXPECT_THROW(TrainingWindows(count_up(20), 10, 1, 0), Error);
  EXPECT_THROW(TrainingWindows({}, 10, 1, 0), Error);
  EXPECT_NO_THROW(TrainingWindows(count_up(21), 10, 1, 0));
}

}  // namespace
}  // namespace retort
