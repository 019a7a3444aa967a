// Training what codes leave free: gradients against differences, legal results, whole models.
#include "quantize/tune/tune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/base/digest.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/pack/block_types.h"
#include "quantize/quantize.h"
#include "quantize/tune/tuned_matrix.h"
#include "tests/support/memory_source.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const char* const kText = RETORT_SOURCE_DIR "/recipes/quickstart/heldout.txt";

float random_f16(testing::Random& random) {
  return f16_to_f32(f32_to_f16(0.01f + static_cast<float>(random.uniform())));
}

// A legal matrix of any scheme, none of its codes at an end.
QuantizedMatrix random_matrix(const std::string& scheme_name, int64_t rows, int64_t cols) {
  testing::Random random(7);
  const Scheme scheme = parse_scheme(scheme_name);
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  for (uint8_t& code : m.codes) code = static_cast<uint8_t>(1 + random.below(scheme.max_code() - 1));
  if (scheme.is_super_block()) {
    const BlockInfo& info = block_info(scheme.block);
    for (float& scale : m.super.scales) scale = random_f16(random);
    for (float& minimum : m.super.minima) minimum = random_f16(random);
    for (int8_t& code : m.super.scale_codes) code = static_cast<int8_t>(1 + random.below(info.most_scale));
    for (uint8_t& code : m.super.minimum_codes) code = static_cast<uint8_t>(1 + random.below(info.most_minimum));
    expand_super_scales(m, 0, rows);
  } else {
    for (float& scale : m.scales) scale = random_f16(random);
    for (float& minimum : m.minima) minimum = random_f16(random);
    for (uint8_t& zero : m.zeros) zero = static_cast<uint8_t>(random.below(scheme.max_code()));
  }
  if (scheme.granularity == Granularity::kTensor) {
    std::ranges::fill(m.scales, m.scales.front());
    std::ranges::fill(m.zeros, m.zeros.front());
  }
  check_matrix(m, scheme_name);
  return m;
}

std::vector<float> decoded(const QuantizedMatrix& m) {
  std::vector<float> values(m.codes.size());
  dequantize_rows(m, 0, m.rows, values);
  return values;
}

class EachScheme : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr int64_t kRows = 3, kCols = 512;

  EachScheme() : matrix(random_matrix(GetParam(), kRows, kCols)), weighting(matrix.codes.size()) {
    testing::Random random(11);
    for (float& value : weighting) value = random.normal();
  }
  // sum of weighting * decoded weights, at the parameters given
  double loss(TunedMatrix& tuned, const std::vector<float>& parameters) {
    tuned.set(parameters);
    double sum = 0;
    const std::vector<float> values = decoded(matrix);
    for (size_t i = 0; i < values.size(); ++i) sum += static_cast<double>(values[i]) * weighting[i];
    return sum;
  }
  void expect_differences(bool codes, size_t stride);

  QuantizedMatrix matrix;
  std::vector<float> weighting;
};

// The loss is linear in each scale and minimum, and in each code from its left neighbour to its right one.
void EachScheme::expect_differences(bool codes, size_t stride) {
  TunedMatrix tuned(matrix, codes);
  const auto count = static_cast<size_t>(tuned.parameters());
  std::vector<float> gradient(count), parameters(count);
  tuned.set(parameters);
  tuned.gradient(weighting, gradient);
  for (size_t i = 0; i < count; i += stride) {
    parameters[i] = 1;
    const double up = loss(tuned, parameters);
    parameters[i] = -1;
    const double down = loss(tuned, parameters);
    parameters[i] = 0;
    EXPECT_NEAR(gradient[i], (up - down) / 2, 2e-3 * (std::abs(up - down) / 2 + std::abs(gradient[i])) + 1e-3) << i;
  }
}

TEST_P(EachScheme, GradientsAreThoseOfDifferences) { expect_differences(false, 1); }
TEST_P(EachScheme, GradientsByCodesAreThoseOfDifferences) { expect_differences(true, 5); }

TEST_P(EachScheme, TunedScalesLeaveALegalMatrixOfTheSameCodes) {
  const QuantizedMatrix before = matrix;
  TunedMatrix tuned(matrix, false);
  testing::Random random(3);
  std::vector<float> parameters(static_cast<size_t>(tuned.parameters()));
  for (float& value : parameters) value = 0.2f * random.normal();
  tuned.set(parameters);
  check_matrix(matrix, GetParam());
  EXPECT_EQ(matrix.codes, before.codes);
  EXPECT_EQ(matrix.zeros, before.zeros);
  EXPECT_EQ(matrix.super.scale_codes, before.super.scale_codes);
  EXPECT_NE(matrix.scales, before.scales);
  std::ranges::fill(parameters, 0.0f);
  tuned.set(parameters);
  EXPECT_EQ(decoded(matrix), decoded(before));
}

TEST_P(EachScheme, LearnedCodesStayWithinTheScheme) {
  TunedMatrix tuned(matrix, true);
  testing::Random random(5);
  std::vector<float> parameters(static_cast<size_t>(tuned.parameters()));
  for (float& value : parameters) value = 2 * random.normal();
  tuned.set(parameters);
  check_matrix(matrix, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Schemes, EachScheme,
                         ::testing::Values("int4-g128-sym", "int3-g32-asym", "int8-channel-sym", "int8-tensor-asym",
                                           "nf4-g64", "q4_0", "q4_1", "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k", "q6_k",
                                           "iq4_xs"));

// Throws when `limit` steps of `task` are done, as a signal would stop the program.
class StoppingSink : public ProgressSink {
 public:
  StoppingSink(std::string task, int64_t limit) : task_(std::move(task)), limit_(limit) {}
  void begin(std::string_view task, int64_t, std::string_view) override { inside_ = task == task_; }
  void update(int64_t done, std::string_view) override {
    if (inside_ && done == limit_) throw Error(ErrorKind::kInterrupted, "[test] stopped: here");
  }

 private:
  std::string task_;
  int64_t limit_;
  bool inside_ = false;
};

class TunedModel : public ::testing::Test {
 protected:
  static QuantizeOptions options(int64_t rounding, int64_t scales, const std::string& scheme = "int3-g32-sym") {
    QuantizeOptions result;
    result.scheme = scheme;
    result.calibration = kText;
    result.sequence_length = 64;
    result.learn_rounding = rounding;
    result.tune_scales = scales;
    return result;
  }
  fs::path path(const std::string& name) const { return temp_.path() / name; }
  QuantizeSummary quantize(const std::string& output, const QuantizeOptions& chosen, int threads = 2,
                           ProgressSink* sink = nullptr) {
    if (!fs::exists(path("model"))) testing::write_tiny_model(path("model"), {.dtype = DType::kBF16});
    const auto source = open_model(path("model"));
    fs::create_directories(path(output));
    ThreadPool pool(threads);
    Context context{pool, sink ? *sink : silent_};
    return quantize_model(*source, path(output), chosen, context);
  }

  testing::TempDir temp_;
  ProgressSink silent_;
};

TEST_F(TunedModel, IsCloserToTheFloatModelAndKeepsItsCodes) {
  quantize("plain", options(0, 0));
  const Json tuning = quantize("tuned", options(0, 12)).tuning;
  EXPECT_LT(tuning[0]["kl_after"].get<double>(), 0.9 * tuning[0]["kl_before"].get<double>()) << tuning;
  const auto plain = open_model(path("plain")), tuned = open_model(path("tuned"));
  int64_t scales_changed = 0;
  for (const ModelTensor& tensor : plain->tensors()) {
    if (tensor.scheme.is_dense()) continue;
    const QuantizedMatrix a = plain->read_quantized(tensor), b = tuned->read_quantized(tuned->at(tensor.name));
    EXPECT_EQ(a.codes, b.codes) << tensor.name;
    scales_changed += a.scales != b.scales;
  }
  EXPECT_GT(scales_changed, 0);
}

TEST_F(TunedModel, KeepsPortableScalesPortable) {
  QuantizeOptions chosen = options(2, 8);
  chosen.scale_type = "portable";
  const Json tuning = quantize("tuned", chosen).tuning;
  EXPECT_TRUE(tuning[1]["taken"].get<bool>()) << tuning;
  const auto tuned = open_model(path("tuned"));
  for (const ModelTensor& tensor : tuned->tensors()) {
    if (tensor.scheme.is_dense()) continue;
    for (const float scale : tuned->read_quantized(tensor).scales)
      ASSERT_EQ(scale, bf16_to_f32(f32_to_bf16(scale))) << tensor.name;
  }
}

TEST_F(TunedModel, LearnsCodesThenScales) {
  const Json tuning = quantize("tuned", options(24, 4)).tuning;
  ASSERT_EQ(tuning.size(), 2u);
  EXPECT_LT(tuning[0]["kl_after"].get<double>(), 0.8 * tuning[0]["kl_before"].get<double>()) << tuning;
  EXPECT_EQ(tuning[0]["kl_after"], tuning[1]["kl_before"]);
}

TEST_F(TunedModel, HasTheSameBytesForAnyNumberOfThreads) {
  quantize("one", options(3, 3, "q4_0"), 1);
  quantize("two", options(3, 3, "q4_0"), 2);
  EXPECT_EQ(digest_of_path(path("one")), digest_of_path(path("two")));
}

TEST_F(TunedModel, ContinuesAfterAStopToTheSameBytes) {
  quantize("whole", options(20, 3));
  StoppingSink in_codes("learned rounding", 18), in_scales("tuned scales", 2);
  EXPECT_THROW(quantize("stopped", options(20, 3), 2, &in_codes), Error);
  EXPECT_TRUE(fs::exists(path("stopped") / "calibration-state" / "tuning-codes.h5"));
  EXPECT_THROW(quantize("stopped", options(20, 3), 2, &in_scales), Error);
  quantize("stopped", options(20, 3));
  EXPECT_EQ(digest_of_path(path("stopped")), digest_of_path(path("whole")));
}

TEST_F(TunedModel, DoesNotContinueFromAnotherSolution) {
  QuantizeOptions wide = options(20, 0);
  wide.grid = "max";
  quantize("fresh", wide);
  StoppingSink in_codes("learned rounding", 18);
  EXPECT_THROW(quantize("changed", options(20, 0), 2, &in_codes), Error);
  quantize("changed", wide);
  EXPECT_EQ(digest_of_path(path("changed")), digest_of_path(path("fresh")));
}

TEST_F(TunedModel, IsWhatItWasWhereTuningDoesNotHelp) {
  quantize("plain", options(0, 0, "int8-channel-sym"));
  const Json tuning = quantize("tuned", options(1, 1, "int8-channel-sym")).tuning;
  for (const Json& phase : tuning) EXPECT_FALSE(phase["taken"].get<bool>()) << tuning;
  const auto plain = open_model(path("plain")), tuned = open_model(path("tuned"));
  for (const ModelTensor& tensor : plain->tensors()) {
    const ModelTensor& other = tuned->at(tensor.name);
    EXPECT_EQ(other.scheme, tensor.scheme) << tensor.name;
    EXPECT_EQ(tuned->read_f32(other), plain->read_f32(tensor)) << tensor.name;
  }
}

TEST_F(TunedModel, RefusesWhatItCannotDo) {
  QuantizeOptions without = options(0, 4);
  without.calibration.clear();
  const auto message = [&](const QuantizeOptions& chosen) {
    try {
      quantize("refused", chosen);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(message(without), HasSubstr("tuning needs a text"));
  EXPECT_THAT(message(options(-1, 0)), HasSubstr("not negative"));
  ThreadPool pool(1);
  const Context small{pool, silent_, uint64_t{64} << 20};
  EXPECT_THROW(check_tuning(*open_model(path("model")), options(0, 4), small), Error);
}

// Neither their values nor their codes are trained, and what is stays legal.
TEST_F(TunedModel, LeavesColumnsIn16BitsAlone) {
  QuantizeOptions chosen = options(0, 0);
  chosen.outliers = 3;
  quantize("plain", chosen);
  chosen.learn_rounding = 24;
  chosen.tune_scales = 4;
  const Json tuning = quantize("tuned", chosen).tuning;
  EXPECT_TRUE(tuning[0]["taken"].get<bool>()) << tuning;
  const auto plain = open_model(path("plain")), tuned = open_model(path("tuned"));
  for (const ModelTensor& tensor : plain->tensors()) {
    if (tensor.scheme.is_dense()) continue;
    const QuantizedMatrix a = plain->read_quantized(tensor), b = tuned->read_quantized(tuned->at(tensor.name));
    EXPECT_EQ(a.outlier_columns, b.outlier_columns) << tensor.name;
    EXPECT_EQ(a.outliers, b.outliers) << tensor.name;
    EXPECT_NE(a.codes, b.codes) << tensor.name;
  }
}

// The codes of these columns get no gradient and begin in their middle, whatever their weights.
TEST(TunedMatrix, HasNoParametersThatMoveColumnsIn16Bits) {
  constexpr size_t kRows = 3, kCols = 512;
  QuantizedMatrix matrix = random_matrix("int4-g128-sym", kRows, kCols);
  std::vector<float> weights = decoded(matrix);
  testing::keep_columns(matrix, weights, {0, 200, 511});
  for (size_t i = 0; i < weights.size(); ++i) weights[i] += 0.3f * matrix.scales[i / 128];
  TunedMatrix tuned(matrix, true);
  std::vector<float> start(static_cast<size_t>(tuned.parameters())), gradient(start.size());
  tuned.begin(weights, start);
  tuned.gradient(std::vector<float>(kRows * kCols, 1.0f), gradient);
  const size_t codes = start.size() - kRows * kCols;
  for (size_t i = 0; i < kRows * kCols; ++i) {
    const size_t col = i % kCols;
    const bool kept = col == 0 || col == 200 || col == 511;
    EXPECT_EQ(gradient[codes + i] == 0, kept) << i;
    EXPECT_EQ(start[codes + i] == 0, kept) << i;
  }
}

TEST(TunedMatrix, BeginsWithTheSolvedCodes) {
  QuantizedMatrix matrix = random_matrix("int4-g128-sym", 3, 512);
  const std::vector<uint8_t> codes = matrix.codes;
  std::vector<float> weights = decoded(matrix);
  testing::Random random(13);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] += matrix.scales[i / 128] * random.normal();
  TunedMatrix tuned(matrix, true);
  std::vector<float> parameters(static_cast<size_t>(tuned.parameters()));
  tuned.begin(weights, parameters);
  EXPECT_GT(std::ranges::count_if(parameters, [](float value) { return value != 0; }), 300);
  tuned.set(parameters);
  EXPECT_EQ(matrix.codes, codes);
}

}  // namespace
}  // namespace retort
