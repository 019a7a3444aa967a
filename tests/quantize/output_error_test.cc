// The reported error of outputs against the outputs themselves.
#include "quantize/calibration/output_error.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "quantize/calibration/second_moment.h"
#include "quantize/rounding.h"

namespace retort {
namespace {

at::Tensor values_of(const QuantizedMatrix& matrix) {
  at::Tensor values = at::empty({matrix.rows, matrix.cols}, at::kFloat);
  dequantize_rows(matrix, 0, matrix.rows,
                  {values.mutable_data_ptr<float>(), static_cast<size_t>(matrix.rows * matrix.cols)});
  return values;
}

TEST(OutputError, IsTheRelativeDistanceOfTheOutputs) {
  const at::NoGradGuard no_grad;
  at::manual_seed(5);
  constexpr int64_t kRows = 20, kCols = 64;
  const at::Tensor mixing = at::randn({kCols, kCols}), inputs = at::matmul(at::randn({200, kCols}), mixing);
  const at::Tensor weights = at::randn({kRows, kCols});
  const MatrixTask task{"w", kRows, kCols, parse_scheme("int3-g32-asym"),
                        [&](int64_t first, int64_t count, std::span<float> out) {
                          std::copy_n(weights.const_data_ptr<float>() + first * kCols, count * kCols, out.data());
                        }};
  ThreadPool pool(2);
  ProgressSink sink;
  Context context{pool, sink};
  const InputStatistics statistics = second_moment(std::vector{inputs}, 4, context);
  std::vector<SolvedMatrix> solved = solve_gptq({&task, 1}, &statistics, {.second_pass = true}, context);
  const SolvedMatrix rounded = round_to_nearest(task, {}, GridRule::kSmallestError, context);
  add_output_errors({&task, 1}, statistics, solved, context);
  const auto error = [&](const at::Tensor& values) {
    return (at::linear(inputs, weights - values).norm() / at::linear(inputs, weights).norm()).item<double>();
  };
  const double before = solved[0].details["output_error_rounded"], after = solved[0].details["output_error"];
  EXPECT_NEAR(before, error(values_of(*rounded.matrix)), 1e-4 * before);
  EXPECT_NEAR(after, error(values_of(*solved[0].matrix)), 1e-4 * after);
  EXPECT_LT(after, 0.9 * before);

  const at::Tensor factors = at::linspace(0.5, 2, kCols);
  solved[0].column_factors.assign(factors.const_data_ptr<float>(), factors.const_data_ptr<float>() + kCols);
  add_output_errors({&task, 1}, statistics, solved, context);
  const double scaled = solved[0].details["output_error"];
  EXPECT_NEAR(scaled, error(values_of(*solved[0].matrix) / factors), 1e-4 * scaled);
}

TEST(OutputError, TakesRowsFromAllOfALargerMatrix) {
  const at::Tensor weights = at::arange(100, at::kFloat).unsqueeze(1).expand({100, 8}).contiguous();
  const MatrixTask task{"w", 100, 8, parse_scheme("q8_0"), [&](int64_t first, int64_t count, std::span<float> out) {
                          std::copy_n(weights.const_data_ptr<float>() + first * 8, count * 8, out.data());
                        }};
  const MatrixTask some = spread_rows(task, 4);
  std::vector<float> values(2 * 8);
  some.read(2, 2, values);
  EXPECT_EQ(some.rows, 4);
  EXPECT_EQ(values.front(), 50);
  EXPECT_EQ(values.back(), 75);
}

}  // namespace
}  // namespace retort
