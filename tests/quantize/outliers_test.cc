// Columns that stay in 16 bits: which they are, what the grids make of the others, whole models by rtn, and refusals.
#include "quantize/outliers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "core/base/digest.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "quantize/rounding.h"
#include "quantize/targets.h"
#include "tests/quantize/matrix_task.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kRows = 70, kCols = 128;
const std::vector<int32_t> kLarge{5, 64, 127};

// Weights of which three columns are twenty times as large.
std::vector<float> weights() {
  std::vector<float> values = gaussian(kRows * kCols, 0.02f, 61);
  for (int64_t r = 0; r < kRows; ++r)
    for (const int32_t c : kLarge) values[static_cast<size_t>(r * kCols + c)] *= 20;
  return values;
}

class Outliers : public ::testing::Test {
 protected:
  SolvedMatrix rounded(const MatrixTask& task, std::span<const float> importance = {}) {
    return round_to_nearest(task, importance, GridRule::kSmallestError, context_);
  }

  ThreadPool pool_{2};
  ProgressSink sink_;
  Context context_{pool_, sink_};
  testing::TempDir temp_;
};

// By plain loops: the sums of squared errors over both matrices, times the activity.
TEST_F(Outliers, AreTheColumnsThatLoseMost) {
  const std::vector<float> first = weights(), second = gaussian(30 * kCols, 0.1f, 62);
  std::vector<MatrixTask> group{matrix_task(first, kCols, "int3-g32-sym"), matrix_task(second, kCols, "int2-g64-asym")};
  std::vector<float> activity = gaussian(kCols, 1, 63);
  for (float& value : activity) value *= value;
  for (const bool weighted : {false, true}) {
    std::vector<double> losses(kCols);
    for (const auto& [task, values] : {std::pair{group[0], &first}, {group[1], &second}}) {
      MatrixTask plain = task;
      plain.outliers.clear();
      const std::vector<float> decoded = dequantize(*rounded(plain).matrix);
      for (size_t i = 0; i < decoded.size(); ++i)
        losses[i % kCols] += std::pow(static_cast<double>((*values)[i]) - decoded[i], 2);
    }
    for (size_t c = 0; c < kCols; ++c) losses[c] *= weighted ? activity[c] : 1;
    for (MatrixTask& task : group) task.outliers.clear();
    choose_outliers(group, 9, weighted ? activity : std::vector<float>{}, GridRule::kSmallestError, context_);
    EXPECT_EQ(group[0].outliers, group[1].outliers);
    ASSERT_EQ(group[0].outliers.size(), 9u);
    EXPECT_TRUE(std::ranges::is_sorted(group[0].outliers));
    double least = INFINITY;
    for (const int32_t c : group[0].outliers) least = std::min(least, losses[static_cast<size_t>(c)]);
    EXPECT_EQ(std::ranges::count_if(losses, [&](double loss) { return loss >= least; }), 9);
  }
}

TEST_F(Outliers, AreNoneWhereWeightsAreNotFinite) {
  std::vector<float> values = weights();
  values[7] = NAN;
  MatrixTask task = matrix_task(values, kCols, "int4-g32-sym");
  choose_outliers({&task, 1}, 3, {}, GridRule::kSmallestError, context_);
  EXPECT_TRUE(task.outliers.empty());
}

// A sibling that cannot be rounded has no say: they are those of the other alone.
TEST_F(Outliers, DoNotDependOnMatricesThatCannotBeRounded) {
  const std::vector<float> values = weights();
  std::vector<float> broken = values;
  broken[static_cast<size_t>(kLarge.front())] = NAN;
  MatrixTask alone = matrix_task(values, kCols, "int4-g32-sym");
  choose_outliers({&alone, 1}, 3, {}, GridRule::kSmallestError, context_);
  std::vector<MatrixTask> group{matrix_task(broken, kCols, "int4-g32-sym"), matrix_task(values, kCols, "int4-g32-sym")};
  choose_outliers(group, 3, {}, GridRule::kSmallestError, context_);
  EXPECT_EQ(group[1].outliers, alone.outliers);
  EXPECT_EQ(rounded(group[1]).matrix->outlier_columns, alone.outliers);
  EXPECT_EQ(rounded(group[0]).fallback, "the weights hold NaN or infinity");
}

// The grids of the others are those of a matrix that never had large columns, and the large ones are as in f16.
TEST_F(Outliers, HaveNoSayInTheScalesOfTheOthers) {
  const std::vector<float> values = weights();
  std::vector<float> small = values;
  for (int64_t r = 0; r < kRows; ++r)
    for (const int32_t c : kLarge) small[static_cast<size_t>(r * kCols + c)] = 0;
  std::vector<float> importance(kCols, 1.0f);
  importance[9] = 5;
  for (const char* scheme :
       {"int4-g32-sym", "int3-g64-asym", "int2-channel-asym", "int8-tensor-sym", "int4-tensor-asym"}) {
    MatrixTask task = matrix_task(values, kCols, scheme);
    task.outliers = kLarge;
    for (const bool weighted : {false, true}) {
      const std::span<const float> weighing = weighted ? importance : std::span<const float>{};
      const SolvedMatrix with = rounded(task, weighing), without = rounded(matrix_task(small, kCols, scheme), weighing);
      ASSERT_TRUE(with.matrix);
      check_matrix(*with.matrix, scheme);
      EXPECT_EQ(with.matrix->codes, without.matrix->codes) << scheme;
      EXPECT_EQ(with.matrix->scales, without.matrix->scales) << scheme;
      EXPECT_EQ(with.matrix->zeros, without.matrix->zeros) << scheme;
      EXPECT_EQ(with.matrix->outlier_columns, kLarge);
      const std::vector<float> decoded = dequantize(*with.matrix);
      for (int64_t r = 0; r < kRows; ++r)
        for (const int32_t c : kLarge) {
          const auto at = static_cast<size_t>(r * kCols + c);
          EXPECT_EQ(decoded[at], f16_to_f32(f32_to_f16(values[at])));
        }
    }
  }
}

TEST_F(Outliers, ThatF16CannotHoldAreRefused) {
  std::vector<float> values = weights();
  values[5] = 1e5f;
  MatrixTask task = matrix_task(values, kCols, "int4-g32-sym");
  task.outliers = kLarge;
  const SolvedMatrix solved = rounded(task);
  EXPECT_FALSE(solved.matrix);
  EXPECT_THAT(solved.fallback, HasSubstr("too large for f16"));
}

class ModelWithOutliers : public Outliers {
 protected:
  void SetUp() override {
    testing::write_tiny_model(temp_.path() / "model", {});
    source_ = open_model(temp_.path() / "model");
    options_.scheme = "int3-g32-asym";
    options_.outliers = 4;
  }
  QuantizeSummary quantize(const std::string& output, int threads = 2) {
    fs::create_directories(temp_.path() / output);
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return quantize_model(*source_, temp_.path() / output, options_, context);
  }
  std::string refusal() {
    try {
      quantize("refused");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "";
  }

  std::unique_ptr<ModelSource> source_;
  QuantizeOptions options_;
};

TEST_F(ModelWithOutliers, KeepsThemInEveryMatrixOfALayerAndSaysSo) {
  const QuantizeSummary summary = quantize("out");
  EXPECT_FALSE(summary.fell_back());
  const auto artifact = open_model(temp_.path() / "out");
  EXPECT_THAT(artifact->problems(), ::testing::IsEmpty());
  uint64_t bits = 0;
  for (const TensorReport& report : summary.tensors) {
    const ModelTensor& tensor = artifact->at(report.name);
    bits += 8 * tensor.bytes;
    EXPECT_EQ(tensor.outliers, tensor.scheme.is_dense() ? 0 : 4) << report.name;
    EXPECT_EQ(report.details.contains("outliers"), !tensor.scheme.is_dense()) << report.name;
    if (tensor.scheme.is_dense()) continue;
    const QuantizedMatrix matrix = artifact->read_quantized(tensor);
    EXPECT_EQ(report.details["outliers"].get<std::vector<int32_t>>(), matrix.outlier_columns);
    const std::vector<float> original = source_->read_f32(source_->at(report.name)), decoded = dequantize(matrix);
    double error = 0, weight = 0;
    for (size_t i = 0; i < original.size(); ++i) {
      error += std::pow(static_cast<double>(original[i]) - decoded[i], 2);
      weight += std::pow(static_cast<double>(original[i]), 2);
    }
    EXPECT_NEAR(report.relative_error, std::sqrt(error / weight), 1e-6) << report.name;
  }
  EXPECT_NEAR(summary.bits_per_weight, static_cast<double>(bits) / static_cast<double>(source_->config().parameters()),
              1e-9);
  options_.outliers = 0;
  const QuantizeSummary plain = quantize("plain");
  EXPECT_LT(plain.bits_per_weight, summary.bits_per_weight);
  for (size_t i = 0; i < plain.tensors.size(); ++i)
    EXPECT_TRUE(parse_scheme(plain.tensors[i].scheme).is_dense() ||
                summary.tensors[i].relative_error < plain.tensors[i].relative_error)
        << plain.tensors[i].name;
}

TEST_F(ModelWithOutliers, HasTheSameBytesForAnyNumberOfThreads) {
  quantize("one", 1);
  quantize("three", 3);
  EXPECT_EQ(digest_of_path(temp_.path() / "one"), digest_of_path(temp_.path() / "three"));
}

TEST_F(ModelWithOutliers, RefusesWhatHasNoPlaceForThem) {
  for (const char* scheme : {"q4_0", "q4_k_m", "nf4-g32"}) {
    options_.scheme = scheme;
    EXPECT_THAT(refusal(), HasSubstr("no place for columns in 16 bits")) << scheme;
  }
  options_.scheme = "int4-g32-sym";
  options_.keep = {{"*layers.1.mlp.up_proj*", "q8_0"}};
  EXPECT_THAT(refusal(), HasSubstr("q8_0 has no place"));
  options_.keep = {{"*layers.1.mlp.up_proj*", "bf16"}, {"model.embed*", "q8_0"}};
  quantize("kept");
  options_.keep.clear();
  options_.outliers = 64;
  EXPECT_THAT(refusal(), HasSubstr("has 64 columns in all"));
  options_.outliers = 2;
  options_.scheme = "auto";
  options_.size = "5bpw";
  options_.types = "int4-g32-sym,int8-g32-sym";
  EXPECT_THAT(refusal(), HasSubstr("--outliers"));
}

TEST_F(ModelWithOutliers, IsLoadedByNoTarget) {
  options_.scheme = "int4-g32-sym";
  for (const std::string& target : target_names()) {
    const TargetVerdict verdict = judge_target(target, plan_tensors(*source_, options_));
    EXPECT_FALSE(verdict.loads()) << target;
    if (target == "vllm") continue;  // its kernels have something against the shape first
    EXPECT_THAT(verdict.reasons.front(), HasSubstr("columns kept in 16 bits have no place")) << target;
  }
}

}  // namespace
}  // namespace retort
