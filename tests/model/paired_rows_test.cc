// The sums of outer products of bfloat16 rows against plain loops in double.
#include "model/paired_rows.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>

#include "core/base/dtype.h"

namespace retort {
namespace {

std::vector<uint16_t> random_rows(int64_t tokens, int64_t features) {
  std::vector<uint16_t> rows;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < tokens * features; ++i) rows.push_back(f32_to_bf16(normal(random)));
  return rows;
}

// Sums over runs of rows, one after the other into the same sums, as a text is read.
std::vector<float> paired_sums(const std::vector<uint16_t>& rows, int64_t tokens, int64_t features, int64_t run) {
  std::vector<float> sums(static_cast<size_t>(features * features));
  PairedRows paired;
  for (int64_t first = 0; first < tokens; first += run) {
    paired.reshape(std::min(run, tokens - first), features);
    for (int64_t panel = 0; panel < paired.panels(); ++panel) paired.pack(rows.data() + first * features, panel);
    for (int64_t row = 0; row < paired.panels(); ++row)
      for (int64_t col = row; col < paired.panels(); ++col) paired.add_products(row, col, sums.data());
  }
  return sums;
}

TEST(PairedRows, GiveTheUpperHalfOfTheSecondMoment) {
  if (!has_pair_products()) GTEST_SKIP() << "this processor does not multiply bfloat16";
  // Odd numbers of tokens and features that do not fill a panel; runs longer than a block of pairs and shorter.
  for (const auto& [tokens, features, run] : {std::array<int64_t, 3>{1, 1, 1}, {7, 33, 3}, {601, 70, 301}}) {
    const std::vector<uint16_t> rows = random_rows(tokens, features);
    const std::vector<float> sums = paired_sums(rows, tokens, features, run);
    for (int64_t i = 0; i < features; ++i)
      for (int64_t j = i; j < features; ++j) {
        double expected = 0, size = 0;
        for (int64_t token = 0; token < tokens; ++token) {
          const auto at = [&](int64_t k) { return bf16_to_f32(rows[static_cast<size_t>(token * features + k)]); };
          expected += static_cast<double>(at(i)) * at(j);
          size += std::abs(static_cast<double>(at(i)) * at(j));
        }
        EXPECT_NEAR(sums[static_cast<size_t>(i * features + j)], expected, 1e-6 * size)
            << tokens << " tokens of " << features << " features, " << i << " by " << j;
      }
  }
}

}  // namespace
}  // namespace retort
