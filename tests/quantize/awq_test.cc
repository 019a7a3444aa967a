// Activation-aware scaling: the search against a slow loop, and the folded model against the original.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "model/calibration.h"
#include "model/decoder.h"
#include "quantize/awq/input_scaling.h"
#include "quantize/awq/scale_search.h"
#include "quantize/calibration/layer_walk.h"
#include "quantize/importance.h"
#include "tests/quantize/matrix_task.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
const char* const kText = RETORT_SOURCE_DIR "/recipes/quickstart/heldout.txt";

// Inputs with a common part and a few active columns: [tokens][cols].
std::vector<float> inputs_of(int64_t tokens, int64_t cols) {
  std::vector<float> inputs = gaussian(static_cast<size_t>(tokens * cols), 1, 71);
  const std::vector<float> shared = gaussian(static_cast<size_t>(cols), 1, 72);
  for (int64_t i = 0; i < tokens * cols; ++i) {
    const auto at = static_cast<size_t>(i), col = static_cast<size_t>(i % cols);
    inputs[at] = (inputs[at] + shared[col]) * (col % 17 == 3 ? 8.0f : 1.0f);
  }
  return inputs;
}

InputStatistics statistics_of(const std::vector<float>& inputs, int64_t cols) {
  const auto n = static_cast<size_t>(cols), tokens = inputs.size() / n;
  std::vector<double> moment(n * n), absolute(n);
  for (size_t t = 0; t < tokens; ++t)
    for (size_t i = 0; i < n; ++i) {
      const double x = inputs[t * n + i];
      absolute[i] += std::abs(x) / static_cast<double>(tokens);
      for (size_t j = 0; j < n; ++j) moment[i * n + j] += x * inputs[t * n + j];
    }
  return {cols, {moment.begin(), moment.end()}, {absolute.begin(), absolute.end()}};
}

// Sum over tokens and rows of ((Q - W) x)^2, by running the matrices.
double output_error(const std::vector<float>& weights, const std::vector<float>& rounded,
                    const std::vector<float>& inputs, size_t cols) {
  double sum = 0;
  for (size_t row = 0; row < weights.size() / cols; ++row)
    for (size_t t = 0; t < inputs.size() / cols; ++t) {
      double output = 0;
      for (size_t c = 0; c < cols; ++c)
        output += (static_cast<double>(rounded[row * cols + c]) - weights[row * cols + c]) * inputs[t * cols + c];
      sum += output * output;
    }
  return sum;
}

class Awq : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  ProgressSink sink_;
  Context context_{pool_, sink_};
  testing::TempDir temp_;
};

// Columns 2k and 2k + 1 are one channel.
TEST_F(Awq, SearchIsTheBestOfTwentyRatios) {
  constexpr size_t kCols = 64, kRows = 24;
  const std::vector<float> inputs = inputs_of(40, kCols);
  const InputStatistics statistics = statistics_of(inputs, kCols);
  const auto first = gaussian(kRows * kCols, 0.02f, 73), second = gaussian(kRows * kCols, 0.05f, 74);
  const MatrixTask group[] = {matrix_task(first, kCols, "int3-g32-asym"), matrix_task(second, kCols, "int4-g16-sym")};
  for (const bool paired : {false, true}) {
    ColumnChannels channels;
    for (size_t c = 0; paired && c < kCols; ++c) channels.push_back(static_cast<int64_t>(c / 2));
    const InputScaling found = find_input_scaling(group, statistics, channels, {}, context_);

    double least = std::numeric_limits<double>::infinity(), best_ratio = 0;
    std::vector<float> best;
    for (int i = 0; i < 20; ++i) {
      std::vector<float> factors(kCols), importance(kCols);
      for (size_t c = 0; c < kCols; ++c) {
        double activity = statistics.mean_absolute[c];
        if (paired) activity = (statistics.mean_absolute[c / 2 * 2] + statistics.mean_absolute[c / 2 * 2 + 1]) / 2;
        factors[c] = static_cast<float>(std::max(std::pow(activity, i / 20.0), 1e-4));
      }
      const float middle = std::sqrt(*std::ranges::min_element(factors) * *std::ranges::max_element(factors));
      for (float& factor : factors) factor /= middle;
      for (size_t c = 0; c < kCols; ++c)
        importance[c] = statistics.second_moment[c * kCols + c] / (factors[c] * factors[c]);
      double error = 0;
      for (const auto& [task, weights] : {std::pair{group[0], &first}, {group[1], &second}}) {
        std::vector<float> larger = *weights;
        for (size_t i = 0; i < larger.size(); ++i) larger[i] *= factors[i % kCols];
        const SolvedMatrix solved =
            round_to_nearest(matrix_task(larger, kCols, name_of(task.scheme)), importance, {}, context_);
        std::vector<float> rounded = dequantize(*solved.matrix);
        for (size_t i = 0; i < rounded.size(); ++i) rounded[i] /= factors[i % kCols];
        error += output_error(*weights, rounded, inputs, kCols);
      }
      if (error < least) least = error, best_ratio = i / 20.0, best = factors;
    }
    ASSERT_GT(best_ratio, 0) << "the case does not tell";
    EXPECT_EQ(found.ratio, best_ratio);
    ASSERT_EQ(found.factors.size(), kCols);
    for (size_t c = 0; c < kCols; ++c) EXPECT_NEAR(found.factors[c] / best[c], 1, 1e-5) << c;
  }
}

TEST_F(Awq, NothingIsScaledWithoutFiniteInputs) {
  const auto weights = gaussian(4 * 32, 0.02f, 75);
  const MatrixTask task = matrix_task(weights, 32, "int4-g32-sym");
  InputStatistics statistics = statistics_of(inputs_of(8, 32), 32);
  statistics.second_moment[40] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(find_input_scaling({&task, 1}, statistics, {}, {}, context_).factors.empty());
  const SolvedMatrix solved = std::move(solve_awq({&task, 1}, &statistics, {}, context_).front());
  EXPECT_TRUE(solved.matrix);
  EXPECT_EQ(solved.method, "rtn");
  EXPECT_NE(solved.fallback, "");
}

// No other scale among those that are tried leaves less error, each weight at its nearest code; zero points stay.
TEST_F(Awq, ScalesLeaveTheSmallestOutputErrorOfTheirSurroundings) {
  constexpr size_t kCols = 96, kRows = 70;
  const std::vector<float> inputs = inputs_of(60, kCols), weights = gaussian(kRows * kCols, 0.02f, 76);
  const InputStatistics statistics = statistics_of(inputs, kCols);
  for (const char* scheme : {"int4-g32-sym", "int3-g32-asym", "int4-channel-sym", "nf4-g32", "iq4_nl"}) {
    const MatrixTask task = matrix_task(weights, kCols, scheme);
    QuantizedMatrix matrix =
        *round_to_nearest(task, column_importance(statistics, {}), GridRule::kSmallestError, context_).matrix;
    const std::vector<uint8_t> zeros = matrix.zeros;
    const double before = output_error(weights, dequantize(matrix), inputs, kCols);
    search_scales(task, statistics, matrix, context_);
    const double after = output_error(weights, dequantize(matrix), inputs, kCols);
    EXPECT_LT(after, 0.95 * before) << scheme;
    EXPECT_EQ(matrix.zeros, zeros) << scheme;
    check_matrix(matrix, scheme);
    for (const float scale : matrix.scales) EXPECT_EQ(scale, round_to_f16(scale));
    // The last group of a row was searched last, with the other groups as they are now.
    const int64_t last = matrix.groups() - 1, size = task.scheme.group_size(kCols);
    for (const float factor : {0.82f, 0.9f, 1.1f}) {
      QuantizedMatrix other = matrix;
      for (size_t row = 0; row < kRows; ++row) {
        const size_t at = row * static_cast<size_t>(matrix.groups()) + static_cast<size_t>(last);
        other.scales[at] = round_to_f16(other.scales[at] * factor);
        const auto begin = row * kCols + static_cast<size_t>(last * size), count = static_cast<size_t>(size);
        encode(task.scheme, {other.scales[at], other.zero(static_cast<int64_t>(row), last)},
               std::span(weights).subspan(begin, count), std::span(other.codes).subspan(begin, count));
      }
      EXPECT_LT(after, output_error(weights, dequantize(other), inputs, kCols)) << scheme << " " << factor;
    }
  }
}

TEST_F(Awq, ScaleSearchDoesNotDependOnThreads) {
  const std::vector<float> inputs = inputs_of(60, 64), weights = gaussian(200 * 64, 0.02f, 77);
  const InputStatistics statistics = statistics_of(inputs, 64);
  const MatrixTask task = matrix_task(weights, 64, "int4-g32-asym");
  ThreadPool single(1);
  Context alone{single, sink_};
  const SolvedMatrix two = std::move(solve_awq({&task, 1}, &statistics, {}, context_).front());
  const SolvedMatrix one = std::move(solve_awq({&task, 1}, &statistics, {}, alone).front());
  EXPECT_EQ(one.matrix->codes, two.matrix->codes);
  EXPECT_EQ(one.matrix->scales, two.matrix->scales);
}

class Folding : public Awq, public ::testing::WithParamInterface<testing::TinyModel> {
 protected:
  void SetUp() override {
    testing::write_tiny_model(temp_.path() / "model", GetParam());
    source_ = open_model(temp_.path() / "model");
    options_.scheme = "int4-g32-asym";
    options_.method = "awq";
    options_.calibration = kText;
    options_.samples = 8;
    options_.sequence_length = 32;
    options_.precision = "f32";  // quantize_model chooses by the CPU, a walk of one's own does not
  }

  // What the solver was given and the artifact stands for, before rounding.
  void fold(int64_t layer, const SolvedLayer& solved, RoleTensors& weights) {
    const ModelConfig& config = source_->config();
    for (const TensorRule& rule : config.family->tensors) {
      if (!is_per_layer(rule.role) || !rule.present(config)) continue;
      at::Tensor& tensor = weights(rule.role, rule.part);
      const std::string name = hf_name(rule, layer);
      if (const auto vector = solved.vectors.find(name); vector != solved.vectors.end())
        tensor = at::tensor(vector->second);
      const auto matrix = solved.matrices.find(name);
      if (matrix == solved.matrices.end()) continue;
      if (!matrix->second.column_factors.empty()) tensor = tensor * at::tensor(matrix->second.column_factors);
      if (!matrix->second.row_divisors.empty()) tensor = tensor / at::tensor(matrix->second.row_divisors).unsqueeze(1);
      scaled_ += !matrix->second.column_factors.empty();
      folded_ += !matrix->second.row_divisors.empty();
    }
  }

  std::unique_ptr<ModelSource> source_;
  QuantizeOptions options_;
  int scaled_ = 0, folded_ = 0;
};

TEST_P(Folding, TheFoldedModelIsTheOriginal) {
  const at::NoGradGuard no_grad;
  const std::vector<TensorPlan> plan = plan_tensors(*source_, options_);
  const auto walk = make_layer_walk(*source_, plan, options_, temp_.path() / "state", context_);
  const DecoderWeights original = load_weights(*source_);
  DecoderWeights folded = load_weights(*source_);
  for (int64_t layer = 0; layer < source_->config().layers; ++layer)
    fold(layer, walk->solve_layer(layer), folded.layers[static_cast<size_t>(layer)]);
  EXPECT_GT(scaled_, 0);
  EXPECT_GT(folded_, 0);
  const at::Tensor ids = calibration_windows(*source_, kText, 4, 32, "test");
  const at::Tensor expected = forward_logits(source_->config(), original, ids);
  const at::Tensor mine = forward_logits(source_->config(), folded, ids);
  EXPECT_LT((mine - expected).abs().max().item<double>(), 1e-5 * expected.abs().max().item<double>());
}

TEST_P(Folding, TheArtifactHoldsTheFoldedModel) {
  const at::NoGradGuard no_grad;
  const std::vector<TensorPlan> plan = plan_tensors(*source_, options_);
  const auto walk = make_layer_walk(*source_, plan, options_, temp_.path() / "state", context_);
  fs::create_directories(temp_.path() / "out");
  const QuantizeSummary summary = quantize_model(*source_, temp_.path() / "out", options_, context_);
  EXPECT_FALSE(summary.fell_back());
  const auto artifact = open_model(temp_.path() / "out");
  for (int64_t layer = 0; layer < source_->config().layers; ++layer) {
    RoleTensors folded = load_layer(*source_, layer);
    fold(layer, walk->solve_layer(layer), folded);
    RoleTensors stored = load_layer(*artifact, layer);
    for (const TensorRule& rule : source_->config().family->tensors) {
      if (!is_per_layer(rule.role) || !rule.present(source_->config())) continue;
      const at::Tensor expected = folded(rule.role, rule.part);
      const double error = ((stored(rule.role, rule.part) - expected).norm() / expected.norm()).item<double>();
      EXPECT_LT(error, rule.input == Input::kNone ? 1e-7 : 0.12) << hf_name(rule, layer);
    }
  }
}

std::vector<testing::TinyModel> folding_models() {
  const Json biases{{"attention_bias", true}, {"mlp_bias", true}};
  return {{.seed = 81, .extra = biases},
          {.model_type = "qwen2", .seed = 82},
          {.model_type = "qwen3", .kv_heads = 1, .seed = 83},
          {.model_type = "mistral", .kv_heads = 4, .seed = 84}};
}

INSTANTIATE_TEST_SUITE_P(Families, Folding, ::testing::ValuesIn(folding_models()),
                         [](const auto& info) { return info.param.model_type; });

TEST_F(Awq, NothingIsScaledAcrossWhatIsKept) {
  testing::write_tiny_model(temp_.path() / "model", {.seed = 85});
  const auto source = open_model(temp_.path() / "model");
  QuantizeOptions options;
  options.scheme = "int4-g32-asym";
  options.method = "awq+gptq";
  options.calibration = kText;
  options.samples = 8;
  options.sequence_length = 32;
  options.keep = {{"*k_proj*", "bf16"}, {"*up_proj*", "int8-tensor-sym"}};
  const std::vector<TensorPlan> plan = plan_tensors(*source, options);
  const auto walk = make_layer_walk(*source, plan, options, temp_.path() / "state", context_);
  for (int64_t layer = 0; layer < source->config().layers; ++layer) {
    const SolvedLayer solved = walk->solve_layer(layer);
    EXPECT_TRUE(solved.vectors.empty());
    for (const auto& [name, matrix] : solved.matrices)
      EXPECT_TRUE(matrix.column_factors.empty() || name.find("o_proj") != std::string::npos) << name;
  }
}

}  // namespace
}  // namespace retort
