// The grid search against its definition: f16 scales, nearest codes, and a squared error that no plain rule beats.
#include "quantize/grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "core/base/dtype.h"
#include "tests/quantize/matrix_task.h"

namespace retort {
namespace {

double squared_error(const Scheme& scheme, const Grid& grid, const std::vector<float>& values,
                     const std::vector<float>& importance = {}) {
  std::vector<uint8_t> codes(values.size());
  encode(scheme, grid, values, codes);
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = static_cast<double>(grid.scale) * (codes[i] - grid.zero) - grid.minimum,
                 error = values[i] - value;
    sum += (importance.empty() ? 1.0 : importance[i]) * error * error;
  }
  return sum;
}

// The usual rules: the range that holds every weight, and the one of the GPTQ paper's code.
std::vector<Grid> plain_rules(const Scheme& scheme, const std::vector<float>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const float least = std::min(*low, 0.0f), most = std::max(*high, 0.0f), largest = std::max(-least, most);
  if (!scheme.symmetric) {
    const float scale = round_to_f16((most - least) / scheme.max_code());
    return {{scale, static_cast<uint8_t>(std::nearbyint(-least / scale))}};
  }
  return {{round_to_f16(largest / (scheme.middle() - 1)), scheme.middle()},
          {round_to_f16(2 * largest / scheme.max_code()), scheme.middle()}};
}

std::string scheme_label(const ::testing::TestParamInfo<std::string>& info) {
  std::string label = info.param;
  std::replace(label.begin(), label.end(), '-', '_');
  return label;
}

class GridSearch : public ::testing::TestWithParam<std::string> {};

TEST_P(GridSearch, LeavesLessErrorThanThePlainRules) {
  const Scheme scheme = parse_scheme(GetParam());
  double searched = 0;
  std::vector<double> plain(2);
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto values = gaussian(100, 0.02f, seed);
    searched += squared_error(scheme, GridFitter(scheme).fit(values), values);
    const std::vector<Grid> rules = plain_rules(scheme, values);
    for (size_t i = 0; i < plain.size(); ++i) plain[i] += squared_error(scheme, rules[i % rules.size()], values);
  }
  EXPECT_LT(searched, std::ranges::min(plain));
}

// The least error of all grids whose zero point is near that of `found`: every f16 scale from a quarter to four times
// the one that just holds all weights.
double least_error(const Scheme& scheme, const Grid& found, const std::vector<float>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const float unit = (std::max(*high, 0.0f) - std::min(*low, 0.0f)) / static_cast<float>(scheme.max_code());
  const int reach = scheme.symmetric ? 0 : 8, first = std::max(0, found.zero - reach),
            last = std::min<int>(scheme.max_code(), found.zero + reach);
  double least = std::numeric_limits<double>::infinity();
  for (uint16_t bits = f32_to_f16(unit / 4); bits <= f32_to_f16(4 * unit); ++bits)
    for (int zero = first; zero <= last; ++zero)
      least = std::min(least, squared_error(scheme, {f16_to_f32(bits), static_cast<uint8_t>(zero), 0}, values));
  return least;
}

// The same where scales may be turned over.
double least_error_of_both_signs(const Scheme& scheme, const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  const float unit = largest / static_cast<float>(scheme.middle());
  double least = std::numeric_limits<double>::infinity();
  for (uint16_t bits = f32_to_f16(unit / 2); bits <= f32_to_f16(2 * unit); ++bits)
    for (const float sign : {1.0f, -1.0f})
      least = std::min(least, squared_error(scheme, {sign * f16_to_f32(bits), scheme.middle(), 0}, values));
  return least;
}

// Up to 4 bits the ranges tried are so close that the scale fitted to the best is the best scale, or one whose error is
// a few thousandths above. Of 8 bits only ranges within 1.5 % are tried, as there is little to win.
TEST_P(GridSearch, ComesCloseToTheBestOfAllGrids) {
  const Scheme scheme = parse_scheme(GetParam());
  double searched = 0, least = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto values = gaussian(32, 0.02f, seed);
    const Grid grid = GridFitter(scheme).fit(values);
    const double error = squared_error(scheme, grid, values), best = least_error(scheme, grid, values);
    EXPECT_GE(error, best * (1 - 1e-9));
    EXPECT_TRUE(scheme.bits == 8 || error <= best * 1.005) << seed << ": " << error << " and " << best;
    searched += error, least += best;
  }
  EXPECT_LE(searched, least * (scheme.bits < 8 ? 1.001 : 1.2));
}

TEST_P(GridSearch, ScalesAreF16AndCodesAreNearest) {
  const Scheme scheme = parse_scheme(GetParam());
  const auto values = gaussian(77, 3.0f, 5);
  const Grid grid = GridFitter(scheme).fit(values);
  EXPECT_GT(grid.scale, 0);
  EXPECT_EQ(grid.scale, f16_to_f32(f32_to_f16(grid.scale)));
  EXPECT_TRUE(!scheme.symmetric || grid.zero == scheme.middle());
  std::vector<uint8_t> codes(values.size());
  encode(scheme, grid, values, codes);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto distance = [&](int code) { return std::abs(values[i] - grid.scale * (code - grid.zero)); };
    for (int code = 0; code <= scheme.max_code(); ++code)
      EXPECT_LE(distance(codes[i]), distance(code) * (1 + 1e-5)) << values[i];
  }
}

TEST_P(GridSearch, OneValueIsHitExactlyInF16) {
  const Scheme scheme = parse_scheme(GetParam());
  for (const float value : {-1.0f, 1.0f}) {
    const std::vector<float> values{0, 0, value, 0};
    EXPECT_NEAR(squared_error(scheme, GridFitter(scheme).fit(values), values), 0, 1e-6) << value;
  }
}

TEST_P(GridSearch, ExtremesStayInRange) {
  const Scheme scheme = parse_scheme(GetParam());
  GridFitter fitter(scheme);
  EXPECT_EQ(fitter.fit(std::vector<float>(40, 0.0f)).scale, 0);
  EXPECT_EQ(fitter.fit(std::vector<float>{1e-40f, -1e-39f}).scale, 0);
  EXPECT_TRUE(std::isinf(fitter.fit(std::vector<float>{1e30f, 1.0f}).scale));
  for (const float value : {1e-7f, 6e4f}) {
    const std::vector<float> values{value, -value / 2};
    const Grid grid = fitter.fit(values);
    EXPECT_TRUE(std::isfinite(grid.scale));
    EXPECT_LE(grid.zero, scheme.max_code());
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, GridSearch,
                         ::testing::Values("int2-g32-sym", "int3-g32-sym", "int4-g32-sym", "int8-g32-sym",
                                           "int2-g32-asym", "int3-g32-asym", "int4-g32-asym", "int8-g32-asym"),
                         scheme_label);

// Blocks of GGUF and code books: one unit of a row.
class UnitSearch : public ::testing::TestWithParam<std::string> {
 protected:
  QuantizedMatrix fitted(const std::vector<float>& values, const std::vector<float>& importance, GridRule rule) const {
    const Scheme scheme = parse_scheme(GetParam());
    QuantizedMatrix m = make_quantized(scheme, 1, static_cast<int64_t>(values.size()));
    UnitGrids grids;
    GridFitter(scheme, rule).fit_unit(values, importance, grids);
    store_grids(grids, 0, 0, m);
    const auto size = static_cast<size_t>(scheme.group_size(m.cols));
    for (size_t g = 0; g < values.size() / size; ++g)
      encode(scheme, grids.groups[g], std::span(values).subspan(g * size, size),
             std::span(m.codes).subspan(g * size, size));
    return m;
  }
  static double error_of(const QuantizedMatrix& m, const std::vector<float>& values,
                         const std::vector<float>& importance) {
    const auto decoded = dequantize(m);
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i)
      sum += (importance.empty() ? 1.0 : importance[i]) * std::pow(static_cast<double>(values[i]) - decoded[i], 2);
    return sum;
  }
  std::vector<float> unit(unsigned seed) const {
    const Scheme scheme = parse_scheme(GetParam());
    auto values = gaussian(static_cast<size_t>(scheme.unit_size(64)), 0.02f, seed);
    for (size_t i = 0; i < values.size(); ++i) values[i] = values[i] * (1 + static_cast<float>(i % 7)) + 0.004f;
    return values;
  }
};

TEST_P(UnitSearch, GivesLegalScalesAndNearestCodes) {
  for (unsigned seed = 0; seed < 10; ++seed) {
    const auto values = unit(seed);
    const QuantizedMatrix m = fitted(values, {}, GridRule::kSmallestError);
    check_matrix(m, GetParam());
    const auto decoded = dequantize(m);
    QuantizedMatrix other = m;
    for (int code = 0; code <= m.scheme.max_code(); ++code) {
      std::fill(other.codes.begin(), other.codes.end(), static_cast<uint8_t>(code));
      const auto instead = dequantize(other);
      for (size_t i = 0; i < values.size(); ++i)
        EXPECT_LE(std::abs(values[i] - decoded[i]), std::abs(values[i] - instead[i]) * (1 + 1e-4) + 1e-7) << i;
    }
  }
}

TEST_P(UnitSearch, LeavesLessErrorThanThePlainRule) {
  double searched = 0, plain = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto values = unit(seed);
    searched += error_of(fitted(values, {}, GridRule::kSmallestError), values, {});
    plain += error_of(fitted(values, {}, GridRule::kLargestWeight), values, {});
  }
  EXPECT_LT(searched, (parse_scheme(GetParam()).bits == 8 ? 1.0 : 0.985) * plain);
}

TEST_P(UnitSearch, ImportanceLowersTheErrorWhereItIsHigh) {
  double weighted = 0, even = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto values = unit(seed);
    std::vector<float> importance(values.size());
    for (size_t i = 0; i < importance.size(); ++i) importance[i] = i % 5 == 0 ? 30.0f : 1.0f;
    weighted += error_of(fitted(values, importance, GridRule::kSmallestError), values, importance);
    even += error_of(fitted(values, {}, GridRule::kSmallestError), values, importance);
  }
  EXPECT_LT(weighted, even);
}

TEST_P(UnitSearch, ZerosStayZeros) {
  const std::vector<float> values(unit(1).size(), 0.0f);
  EXPECT_EQ(error_of(fitted(values, {}, GridRule::kSmallestError), values, {}), 0);
}

INSTANTIATE_TEST_SUITE_P(Schemes, UnitSearch,
                         ::testing::Values("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k",
                                           "q5_k", "q6_k", "iq4_xs", "nf4-g64"),
                         scheme_label);

TEST(GridFitter, AsymmetricRangesIncludeZero) {
  for (const char* name : {"int2-g32-asym", "int4-g32-asym", "int8-g32-asym"}) {
    GridFitter fitter(parse_scheme(name));
    EXPECT_EQ(fitter.fit(std::vector<float>{3.0f, 3.5f, 4.0f, 3.1f}).zero, 0);
    EXPECT_EQ(fitter.fit(std::vector<float>{-3.0f, -3.5f, -4.0f}).zero, parse_scheme(name).max_code());
  }
}

// Against a list of every positive number that both types hold.
TEST(ScaleType, PortableIsTheNearestNumberOfBothTypes) {
  std::vector<float> both;
  for (uint32_t bits = 1; bits < 0x7c00; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    if (bf16_to_f32(f32_to_bf16(value)) == value) both.push_back(value);
  }
  EXPECT_EQ(both.back(), 65280.0f);
  for (const float spread : {0x1p-22f, 0x1p-16f, 1e-3f, 1.0f, 300.0f}) {
    for (const float drawn : gaussian(500, spread, 3)) {
      const float value = std::min(std::abs(drawn), 65280.0f), stored = round_scale(value, ScaleType::kPortable);
      const auto above = std::ranges::lower_bound(both, value);
      float distance = above == both.end() ? value : *above - value;
      distance = std::min(distance, above == both.begin() ? value : value - *std::prev(above));
      ASSERT_EQ(std::abs(stored - value), distance) << value;
      ASSERT_EQ(stored, f16_to_f32(f32_to_f16(stored)));
      ASSERT_EQ(stored, bf16_to_f32(f32_to_bf16(stored)));
      ASSERT_EQ(round_scale(-value, ScaleType::kPortable), -stored);
    }
  }
  EXPECT_TRUE(std::isinf(round_scale(65500.0f, ScaleType::kPortable)));
  EXPECT_EQ(round_scale(0.1f, ScaleType::kF16), round_to_f16(0.1f));
}

TEST(GridFitter, PortableScalesLoseLittle) {
  const Scheme scheme = parse_scheme("int4-g32-sym");
  double free = 0, portable = 0;
  for (unsigned seed = 0; seed < 50; ++seed) {
    const auto values = gaussian(32, 0.1f, seed);
    const Grid grid = GridFitter(scheme, GridRule::kSmallestError, ScaleType::kPortable).fit(values);
    EXPECT_EQ(grid.scale, round_scale(grid.scale, ScaleType::kPortable));
    portable += squared_error(scheme, grid, values);
    free += squared_error(scheme, GridFitter(scheme).fit(values), values);
  }
  EXPECT_NE(portable, free);
  EXPECT_LT(portable, 1.01 * free);
}

TEST(GridFitter, ImportanceMovesTheGrid) {
  const Scheme scheme = parse_scheme("int3-g32-sym");
  std::vector<float> values = gaussian(32, 0.1f, 1), importance(32, 1.0f);
  values[3] = 2.0f;
  importance[3] = 1e-6f;
  GridFitter fitter(scheme);
  const Grid plain = fitter.fit(values), weighted = fitter.fit(values, importance);
  EXPECT_LT(weighted.scale, plain.scale);
  EXPECT_LT(squared_error(scheme, weighted, values, importance), squared_error(scheme, plain, values, importance));
}

TEST(GridFitter, BlocksComeCloseToTheBestOfAllScales) {
  for (const char* name : {"q4_0", "q5_0"}) {
    const Scheme scheme = parse_scheme(name);
    double searched = 0, least = 0;
    for (unsigned seed = 0; seed < 50; ++seed) {
      const auto values = gaussian(32, 0.02f, seed);
      const double error = squared_error(scheme, GridFitter(scheme).fit(values), values),
                   best = least_error_of_both_signs(scheme, values);
      EXPECT_GE(error, best * (1 - 1e-9));
      searched += error, least += best;
    }
    EXPECT_LE(searched, 1.01 * least) << name;
  }
}

TEST(GridFitter, Q4_0MayHaveANegativeScale) {
  const Scheme scheme = parse_scheme("q4_0");
  std::vector<float> values(32, 0.0f);
  for (int i = 0; i < 32; ++i) values[static_cast<size_t>(i)] = 0.25f * static_cast<float>(i % 16 - 7);  // -7 .. 8
  const Grid grid = GridFitter(scheme).fit(values);
  EXPECT_EQ(grid.scale, -0.25f);
  EXPECT_EQ(squared_error(scheme, grid, values), 0);
}

// The largest weight lies where the range puts it. Halfway between two codes, noise would choose between two grids.
TEST(GridFitter, NoiseInTheLastBitsSeldomChoosesAnotherGrid) {
  constexpr int kGroups = 2000;
  for (const char* name : {"q4_0", "q4_1", "q5_1", "int2-g32-asym", "int3-g32-asym", "int4-g32-sym", "int4-g32-asym"}) {
    const Scheme scheme = parse_scheme(name);
    GridFitter fitter(scheme);
    int others = 0;
    for (unsigned seed = 0; seed < kGroups; ++seed) {
      const std::vector<float> values = gaussian(32, 0.02f, seed), noise = gaussian(32, 1e-6f, seed + kGroups);
      std::vector<float> noisy = values;
      for (size_t i = 0; i < noisy.size(); ++i) noisy[i] *= 1 + noise[i];
      const double error = squared_error(scheme, fitter.fit(values), values);
      others += std::abs(squared_error(scheme, fitter.fit(noisy), values) - error) > 2e-3 * error;
    }
    EXPECT_LE(others, kGroups / 500) << name;
  }
}

}  // namespace
}  // namespace retort
