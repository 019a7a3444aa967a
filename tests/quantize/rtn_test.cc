#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/json.h"
#include "quantize/grid.h"
#include "quantize/quantizer.h"
#include "quantize/rounding.h"
#include "tests/quantize/matrix_task.h"

namespace retort {
namespace {

class Rtn : public ::testing::Test {
 protected:
  SolvedMatrix solve(const MatrixTask& task, int threads = 1, GridRule rule = GridRule::kSmallestError) {
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return round_to_nearest(task, {}, rule, context);
  }
  SolvedMatrix by_importance(const MatrixTask& task, const InputStatistics* statistics,
                             GridRule rule = GridRule::kSmallestError) {
    ThreadPool pool(1);
    Context context{pool, sink_};
    return round_to_nearest(task, imatrix_rounding(task.scheme, statistics, rule), context);
  }
  double error_of(const MatrixTask& task, const QuantizedMatrix& matrix, int threads = 1) {
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return relative_error(task, matrix, context);
  }

 private:
  ProgressSink sink_;
};

TEST_F(Rtn, EachGroupIsTheGridOfItsOwnValues) {
  for (const char* name : {"int4-g32-sym", "int3-g24-asym", "int2-channel-asym", "int8-channel-sym"}) {
    const auto values = gaussian(5 * 96, 0.02f, 3);
    const MatrixTask task = matrix_task(values, 96, name);
    const SolvedMatrix solved = solve(task);
    ASSERT_TRUE(solved.matrix) << solved.fallback;
    EXPECT_EQ(solved.method, "rtn");
    check_matrix(*solved.matrix, name);
    const auto size = static_cast<size_t>(task.scheme.group_size(96));
    for (size_t g = 0; g < values.size() / size; ++g) {
      const std::span group(values.data() + g * size, size);
      const Grid grid = GridFitter(task.scheme).fit(group);
      std::vector<uint8_t> codes(size);
      encode(task.scheme, grid, group, codes);
      EXPECT_EQ(solved.matrix->scales[g], grid.scale);
      EXPECT_EQ(
          solved.matrix->zero(static_cast<int64_t>(g * size) / 96, static_cast<int64_t>(g) % solved.matrix->groups()),
          grid.zero);
      EXPECT_TRUE(
          std::equal(codes.begin(), codes.end(), solved.matrix->codes.begin() + static_cast<int64_t>(g * size)));
    }
  }
}

// It is summed while encoding; what is stored is decoded anew here.
TEST_F(Rtn, ReportsTheErrorOfWhatIsStored) {
  const auto values = gaussian(3 * 1024, 0.02f, 9);
  for (const char* name : {"int4-g32-sym", "int3-g32-asym", "int8-channel-sym", "int4-tensor-asym", "nf4-g64", "q4_0",
                           "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"})
    for (const GridRule rule : {GridRule::kSmallestError, GridRule::kLargestWeight}) {
      const MatrixTask task = matrix_task(values, 1024, name);
      const SolvedMatrix solved = solve(task, 1, rule);
      const double stored = error_of(task, *solved.matrix);
      EXPECT_GT(stored, 0) << name;
      EXPECT_NEAR(*solved.relative_error, stored, 1e-6 * stored) << name;
    }
}

// Several runs, the last one short, made in any order.
TEST_F(Rtn, RunsOfRowsAreThoseOfTheWholeMatrix) {
  constexpr int64_t kCols = 1024, kRows = 300;
  const auto values = gaussian(kRows * kCols, 0.02f, 5);
  Rounding weighted{.importance = gaussian(kCols, 1, 6), .method = "imatrix"};
  for (float& weight : weighted.importance) weight = std::abs(weight);
  for (const char* name : {"int3-g32-asym", "int8-tensor-sym", "q3_k", "iq4_nl"})
    for (const Rounding& rounding : {Rounding{}, weighted}) {
      const MatrixTask task = matrix_task(values, kCols, name);
      ThreadPool pool(1);
      ProgressSink sink;
      Context context{pool, sink};
      const SolvedMatrix whole = round_to_nearest(task, rounding, context);
      RunRounder rounder(task, rounding);
      const MatrixRuns runs = rounder.runs();
      ASSERT_GT(kRows, 2 * runs.step);
      std::vector<int64_t> firsts;
      for (int64_t first = 0; first < kRows; first += runs.step) firsts.insert(firsts.begin(), first);
      for (const int64_t first : firsts) {
        const auto rows = runs.make(first, std::min(runs.step, kRows - first));
        ASSERT_TRUE(rows);
        const auto from = whole.matrix->codes.begin() + first * kCols;
        EXPECT_TRUE(std::equal(rows->codes.begin(), rows->codes.end(), from)) << name;
        const auto scale = whole.matrix->scales.begin() + first * whole.matrix->groups();
        EXPECT_TRUE(std::equal(rows->scales.begin(), rows->scales.end(), scale)) << name;
      }
      const SolvedMatrix report = rounder.report();
      EXPECT_EQ(report.method, rounding.method);
      EXPECT_NEAR(*report.relative_error, *whole.relative_error, 1e-12);
    }
}

TEST_F(Rtn, RunsOfWhatCannotBeRoundedSayWhy) {
  const std::vector<std::pair<float, const char*>> cases{{std::numeric_limits<float>::quiet_NaN(), "NaN or infinity"},
                                                         {3e38f, "too large for f16"}};
  for (const auto& [bad, reason] : cases) {
    auto values = gaussian(300 * 1024, 0.02f, 5);
    values[200 * 1024 + 7] = bad;
    ThreadPool pool(2);
    ProgressSink sink;
    Context context{pool, sink};
    RunRounder rounder(matrix_task(values, 1024, "int4-g32-sym"), {});
    EXPECT_TRUE(rounder.runs().make(0, rounder.runs().step));
    EXPECT_FALSE(rounder.runs().make(200 / rounder.runs().step * rounder.runs().step, rounder.runs().step));
    EXPECT_NE(rounder.refusal(context).find(reason), std::string::npos);
  }
}

TEST_F(Rtn, ATensorHasOneGrid) {
  const auto values = gaussian(64 * 8, 0.02f, 4);
  const SolvedMatrix solved = solve(matrix_task(values, 64, "int8-tensor-asym"));
  const Grid grid = GridFitter(parse_scheme("int8-tensor-asym")).fit(values);
  for (const float scale : solved.matrix->scales) EXPECT_EQ(scale, grid.scale);
  for (const uint8_t zero : solved.matrix->zeros) EXPECT_EQ(zero, grid.zero);
}

TEST_F(Rtn, TheOneGridHeedsTheRule) {
  const auto values = gaussian(64 * 8, 0.02f, 4);
  const MatrixTask task = matrix_task(values, 64, "int4-tensor-sym");
  const Grid grid = GridFitter(task.scheme, GridRule::kLargestWeight).fit(values);
  EXPECT_EQ(solve(task, 1, GridRule::kLargestWeight).matrix->scales[0], grid.scale);
  EXPECT_NE(solve(task).matrix->scales[0], grid.scale);
}

// As do the grids of groups.
TEST_F(Rtn, TheOneGridHeedsImportance) {
  auto values = gaussian(64 * 8, 0.02f, 4);
  for (size_t i = 0; i < values.size(); i += 64) values[i] *= 8;  // a column that counts little
  InputStatistics statistics{.features = 64, .second_moment = {}, .mean_square = std::vector<float>(64, 1.0f)};
  statistics.mean_square[0] = 1e-4f;
  for (const char* scheme : {"int4-tensor-sym", "int4-tensor-asym", "int8-tensor-sym"}) {
    double errors[2] = {};
    for (const bool weighted : {false, true}) {
      const SolvedMatrix solved = by_importance(matrix_task(values, 64, scheme), weighted ? &statistics : nullptr);
      const std::vector<float> rounded = dequantize(*solved.matrix);
      for (size_t i = 0; i < values.size(); ++i)
        errors[weighted] += statistics.mean_square[i % 64] * std::pow(rounded[i] - values[i], 2.0);
    }
    EXPECT_LT(errors[1], (scheme[3] == '8' ? 1.0 : 0.8) * errors[0]) << scheme;
  }
}

TEST_F(Rtn, WhereNothingIsWeightedTheReportSaysSo) {
  const auto values = gaussian(64 * 8, 0.02f, 4);
  const InputStatistics active{.features = 64, .second_moment = {}, .mean_square = std::vector<float>(64, 1.0f)};
  const InputStatistics silent{.features = 64, .second_moment = {}, .mean_square = std::vector<float>(64, 0.0f)};
  const auto method = [&](const char* scheme, const InputStatistics& statistics, GridRule rule) {
    const SolvedMatrix solved = by_importance(matrix_task(values, 64, scheme), &statistics, rule);
    return solved.method + (solved.fallback.empty() ? "" : ", fell back");
  };
  EXPECT_EQ(method("q4_0", active, GridRule::kSmallestError), "imatrix");
  EXPECT_EQ(method("q4_0", active, GridRule::kLargestWeight), "rtn, fell back");
  EXPECT_EQ(method("int4-g32-sym", active, GridRule::kLargestWeight), "imatrix");  // of the refit
  EXPECT_EQ(method("q8_0", active, GridRule::kSmallestError), "rtn");              // it is so by definition
  EXPECT_EQ(method("int8-tensor-sym", active, GridRule::kSmallestError), "imatrix");
  EXPECT_EQ(method("q4_0", silent, GridRule::kSmallestError), "rtn");
}

TEST_F(Rtn, ScalesAreOfTheTypeAskedFor) {
  const auto values = gaussian(64 * 8, 0.02f, 4);
  for (const char* scheme : {"int4-g32-sym", "int4-g32-asym", "int8-channel-sym", "int8-tensor-asym"}) {
    MatrixTask task = matrix_task(values, 64, scheme);
    task.scale_type = ScaleType::kPortable;
    const SolvedMatrix solved = solve(task);
    for (const float scale : solved.matrix->scales) EXPECT_EQ(scale, bf16_to_f32(f32_to_bf16(scale))) << scheme;
    EXPECT_NE(solved.matrix->scales, solve(matrix_task(values, 64, scheme)).matrix->scales) << scheme;
  }
}

std::vector<uint8_t> from_hex(const std::string& text) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

// Lays one block out as ggml does: an f16 scale, then codes; q4_0 pairs weight j with weight j + 16 in a byte.
std::vector<uint8_t> ggml_block(const QuantizedMatrix& m, int64_t row) {
  const uint16_t scale = f32_to_f16(m.scales[static_cast<size_t>(row)]);
  std::vector<uint8_t> bytes{static_cast<uint8_t>(scale & 255), static_cast<uint8_t>(scale >> 8)};
  const uint8_t* codes = m.codes.data() + row * 32;
  if (m.scheme.block == BlockType::kQ8_0)
    for (int i = 0; i < 32; ++i) bytes.push_back(static_cast<uint8_t>(codes[i] - 128));
  else
    for (int i = 0; i < 16; ++i) bytes.push_back(static_cast<uint8_t>(codes[i] | codes[i + 16] << 4));
  return bytes;
}

// The bytes were made by the `gguf` package: tests/oracles/make_ggml_blocks.py.
TEST_F(Rtn, BlocksEqualGgmls) {
  const Json golden = read_json_file(RETORT_SOURCE_DIR "/tests/golden/ggml_blocks.json");
  std::vector<float> values;
  for (const auto& row : golden["values"]) {
    const auto bytes = from_hex(row.get<std::string>());
    const size_t size = values.size();
    values.resize(size + 32);
    std::memcpy(values.data() + size, bytes.data(), bytes.size());
  }
  for (const auto& [scheme, type] : {std::pair{"q4_0", "Q4_0"}, {"q8_0", "Q8_0"}}) {
    const SolvedMatrix solved = solve(matrix_task(values, 32, scheme), 1, GridRule::kLargestWeight);
    for (size_t row = 0; row < values.size() / 32; ++row)
      EXPECT_EQ(ggml_block(*solved.matrix, static_cast<int64_t>(row)), from_hex(golden[type][row].get<std::string>()))
          << scheme << " block " << row;
  }
}

TEST_F(Rtn, ThreadsDoNotChangeTheResult) {
  const auto values = gaussian(700 * 256, 0.02f, 6);
  const MatrixTask task = matrix_task(values, 256, "int4-g128-asym");
  const SolvedMatrix one = solve(task, 1), three = solve(task, 3);
  EXPECT_EQ(one.matrix->codes, three.matrix->codes);
  EXPECT_EQ(one.matrix->scales, three.matrix->scales);
  EXPECT_EQ(error_of(task, *one.matrix, 1), error_of(task, *one.matrix, 3));
}

TEST_F(Rtn, RelativeErrorIsOfTheFrobeniusNorm) {
  const auto values = gaussian(300 * 512, 1.0f, 7);
  const MatrixTask task = matrix_task(values, 512, "int4-g128-sym");
  const SolvedMatrix solved = solve(task);
  const auto decoded = dequantize(*solved.matrix);
  double error = 0, weight = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(values[i] - decoded[i], 2);
    weight += std::pow(values[i], 2);
  }
  EXPECT_NEAR(error_of(task, *solved.matrix), std::sqrt(error / weight), 1e-9);
}

TEST_F(Rtn, WhatCannotBeQuantizedSaysWhy) {
  auto values = gaussian(64, 1.0f, 8);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f}) {
    values[40] = bad;
    for (const char* scheme : {"int4-g32-sym", "int8-tensor-asym", "q4_0", "q8_0"}) {
      const SolvedMatrix solved = solve(matrix_task(values, 32, scheme));
      EXPECT_FALSE(solved.matrix) << bad << " " << scheme;
      EXPECT_FALSE(solved.fallback.empty());
    }
  }
}

TEST(Quantizers, UnknownMethodsNameTheNearest) {
  EXPECT_EQ(find_quantizer("rtn").name, "rtn");
  try {
    find_quantizer("gtpq");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("gptq"), std::string::npos);
  }
}

}  // namespace
}  // namespace retort
