// Products with the factor in bfloat16 pairs against plain loops in double, and what they change of a solution.
#include "quantize/gptq/paired_factor.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/base/dtype.h"
#include "model/pair_products.h"
#include "quantize/gptq/solver.h"
#include "tests/quantize/matrix_task.h"

namespace retort {
namespace {

std::vector<float> random_numbers(int64_t count, unsigned seed) {
  std::vector<float> numbers;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(normal(random));
  return numbers;
}

double rounded(float value) { return bf16_to_f32(f32_to_bf16(value)); }

class PairedFactors : public ::testing::Test {
 protected:
  static constexpr int64_t kSize = 96, kWidth = 64;

  void SetUp() override {
    if (!has_pair_products()) GTEST_SKIP() << "this processor does not multiply bfloat16";
  }

  float& factor(int64_t i, int64_t j) { return factor_[static_cast<size_t>(i * kSize + j)]; }
  float row(int64_t k, int64_t column) const { return rows_[static_cast<size_t>(k * kWidth + column)]; }
  PairedFactor paired() { return make_paired(at::from_blob(factor_.data(), {kSize, kSize}, at::kFloat), context_); }
  PairedErrors errors(int64_t begin, int64_t end) const {
    PairedErrors errors;
    errors.pack(rows_.data() + begin * kWidth, end - begin, kWidth);
    return errors;
  }
  // sums[i] against start[i] + sum of left(i, k) row k over k in [begin, end).
  void expect_products(const std::vector<float>& sums, const std::vector<float>& start, int64_t first, int64_t last,
                       int64_t begin, int64_t end, bool transposed) {
    for (int64_t i = 0; i < kSize; ++i)
      for (int64_t column = 0; column < kWidth; ++column) {
        const auto at = static_cast<size_t>(i * kWidth + column);
        double expected = start[at], size = std::abs(expected);
        for (int64_t k = begin; k < end && i >= first && i < last; ++k) {
          const double product = rounded(transposed ? factor(k, i) : factor(i, k)) * rounded(row(k, column));
          expected += product, size += std::abs(product);
        }
        ASSERT_NEAR(sums[at], expected, 1e-6 * size) << i << ", " << column;
      }
  }

  ThreadPool threads_{3};
  ProgressSink sink_;
  Context context_{threads_, sink_};
  std::vector<float> factor_ = random_numbers(kSize * kSize, 1), rows_ = random_numbers(kSize * kWidth, 2);
};

TEST_F(PairedFactors, FeedWhatAPlaceMissedToThoseBehindIt) {
  const PairedFactor pairs = paired();
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 32}, {32, 48}, {64, 88}}) {
    const std::vector<float> start = random_numbers(kSize * kWidth, 3);
    std::vector<float> columns = start;
    ASSERT_TRUE(pairs.feeds(begin, end));
    errors(begin, end).feed(pairs, begin, end, columns.data());
    expect_products(columns, start, end, kSize, begin, end, /*transposed=*/true);
  }
}

// Groups of 36, 14 or 9 columns, each with a scale that has seen the corrections before it.
TEST_F(PairedFactors, LeaveRangesThatNoWholeStepsFollow) {
  const PairedFactor pairs = paired();
  EXPECT_FALSE(pairs.feeds(0, 36));
  EXPECT_FALSE(pairs.feeds(0, 14));
  EXPECT_FALSE(pairs.feeds(9, 16));
  EXPECT_FALSE(PairedFactor().feeds(0, 32));
}

TEST_F(PairedFactors, MultiplyByTheirUpperHalf) {
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = 0; j < i; ++j) factor(i, j) = 0;
  const PairedFactor pairs = paired();
  std::vector<float> products(static_cast<size_t>(kSize * kWidth));
  const std::vector<float> start = products;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 64}, {64, 96}})
    errors(begin, end).multiply(pairs, begin, products.data());
  expect_products(products, start, 0, kSize, 0, kSize, /*transposed=*/false);
}

// trace(E H E^T) in double, H damped as for the factor.
double output_error(const QuantizedMatrix& matrix, const std::vector<float>& weights, const InputStatistics& inputs,
                    const HessianFactor& factor) {
  std::vector<float> values(weights.size());
  dequantize_rows(matrix, 0, matrix.rows, values);
  double sum = 0;
  for (int64_t row = 0; row < matrix.rows; ++row)
    for (int64_t i = 0; i < matrix.cols; ++i)
      for (int64_t j = 0; j < matrix.cols; ++j) {
        const auto error = [&](int64_t c) {
          const auto at = static_cast<size_t>(row * matrix.cols + c);
          return static_cast<double>(weights[at]) - values[at];
        };
        const double moment = i == j ? factor.diagonal[static_cast<size_t>(i)]
                                     : inputs.second_moment[static_cast<size_t>(i * matrix.cols + j)];
        sum += error(i) * error(j) * moment;
      }
  return sum;
}

InputStatistics correlated_statistics(int64_t cols, int64_t tokens) {
  std::vector<float> inputs = random_numbers(tokens * cols, 5);
  for (size_t i = 1; i < inputs.size(); ++i) inputs[i] += 0.8f * inputs[i - 1];  // neighbours go together
  InputStatistics statistics{cols, std::vector<float>(static_cast<size_t>(cols * cols))};
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < cols; ++i)
      for (int64_t j = 0; j < cols; ++j)
        statistics.second_moment[static_cast<size_t>(i * cols + j)] +=
            inputs[static_cast<size_t>(t * cols + i)] * inputs[static_cast<size_t>(t * cols + j)];
  return statistics;
}

struct Solved {
  int64_t cols;
  const char* scheme;
  bool activation_order;
};

TEST_F(PairedFactors, SolveAsWell) {
  constexpr int64_t kRows = 24;
  for (const auto& [cols, scheme, activation_order] :
       {Solved{256, "int4-g64-sym", true}, Solved{256, "int4-g64-sym", false}, Solved{288, "int4-g36-sym", false}}) {
    const std::vector<float> weights = random_numbers(kRows * cols, 4);
    const InputStatistics statistics = correlated_statistics(cols, 300);
    const MatrixTask task = matrix_task(weights, cols, scheme);
    std::array<double, 2> errors{};
    for (const bool in_pairs : {false, true}) {
      const SolverOptions options{.activation_order = activation_order, .second_pass = true, .in_pairs = in_pairs};
      const HessianFactor factor = factor_hessian(statistics, options, context_);
      ASSERT_EQ(factor.paired.defined(), in_pairs);
      const GptqResult result = std::move(run_gptq({&task, 1}, factor, {}, context_).front());
      errors[in_pairs] = output_error(result.matrix, weights, statistics, factor);
      EXPECT_NEAR(result.objective, errors[in_pairs], 0.01 * errors[in_pairs]);
    }
    EXPECT_LT(errors[1], 1.01 * errors[0]) << scheme << ": two runs on different inputs differ by more";
    EXPECT_NE(errors[1], errors[0]) << scheme;
  }
}

}  // namespace
}  // namespace retort
