// Activation-aware scaling: the search against a slow loop, and the folded model against the original.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "model/calibration.h"
#include "model/decoder.h"
#include "quantize/awq/aim.h"
#include "quantize/awq/folding.h"
#include "quantize/awq/input_scaling.h"
#include "quantize/awq/scale_search.h"
#include "quantize/calibration/layer_walk.h"
#include "quantize/importance.h"
#include "quantize/rounding.h"
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

// The textbook: factors from the exponents, each matrix rounded and run.
struct SlowScaling {
  std::vector<double> activity, size;
  std::vector<std::pair<MatrixTask, const std::vector<float>*>> matrices;
  const InputStatistics& statistics;
  const std::vector<float>& inputs;

  std::vector<float> factors(double i, double j) const {
    std::vector<float> factors;
    for (size_t c = 0; c < activity.size(); ++c)
      factors.push_back(static_cast<float>(std::max(std::pow(activity[c], i) / std::pow(size[c], j), 1e-4)));
    const float middle = std::sqrt(*std::ranges::min_element(factors) * *std::ranges::max_element(factors));
    for (float& factor : factors) factor /= middle;
    return factors;
  }

  double error(std::span<const float> factors, Context& context) const {
    const size_t cols = factors.size();
    std::vector<float> importance(cols);
    for (size_t c = 0; c < cols; ++c)
      importance[c] = statistics.second_moment[c * (cols + 1)] / (factors[c] * factors[c]);
    double error = 0;
    for (const auto& [task, weights] : matrices) {
      std::vector<float> larger = *weights;
      for (size_t i = 0; i < larger.size(); ++i) larger[i] *= factors[i % cols];
      const MatrixTask scaled = matrix_task(larger, static_cast<int64_t>(cols), name_of(task.scheme));
      std::vector<float> rounded = dequantize(*round_to_nearest(scaled, importance, {}, context).matrix);
      for (size_t i = 0; i < rounded.size(); ++i) rounded[i] /= factors[i % cols];
      error += output_error(*weights, rounded, inputs, cols);
    }
    return error;
  }
};

// Mean over rows, and matrices, of |w| / max |w| of the group.
std::vector<double> slow_sizes(const SlowScaling& slow, size_t cols) {
  std::vector<double> sizes(cols);
  for (const auto& [task, weights] : slow.matrices)
    for (size_t i = 0; i < weights->size(); ++i) {
      const auto size = static_cast<size_t>(task.scheme.group), first = i / size * size;
      float most = 0;
      for (size_t k = first; k < first + size; ++k) most = std::max(most, std::abs((*weights)[k]));
      sizes[i % cols] += std::abs((*weights)[i]) / most;
    }
  return sizes;
}

// Columns 2k and 2k + 1 are one channel. No step along either exponent leaves less error.
TEST_F(Awq, SearchEndsWhereNoStepHelps) {
  constexpr size_t kCols = 64, kRows = 24;
  const std::vector<float> inputs = inputs_of(40, kCols);
  const InputStatistics statistics = statistics_of(inputs, kCols);
  auto first = gaussian(kRows * kCols, 0.02f, 73);
  const auto second = gaussian(kRows * kCols, 0.05f, 74);
  for (size_t i = 0; i < first.size(); ++i) first[i] *= i % kCols % 9 == 4 ? 6.0f : 1.0f;
  const MatrixTask group[] = {matrix_task(first, kCols, "int3-g32-asym"), matrix_task(second, kCols, "int4-g16-sym")};
  for (const bool paired : {false, true}) {
    ColumnChannels channels;
    for (size_t c = 0; paired && c < kCols; ++c) channels.push_back(static_cast<int64_t>(c / 2));
    const InputScaling found = find_input_scaling(group, statistics, channels, {}, context_);

    SlowScaling slow{{}, {}, {{group[0], &first}, {group[1], &second}}, statistics, inputs};
    slow.activity.assign(statistics.mean_absolute.begin(), statistics.mean_absolute.end());
    slow.size = slow_sizes(slow, kCols);
    for (std::vector<double>* means : {&slow.activity, &slow.size})
      for (size_t c = 0; paired && c < kCols; c += 2)
        (*means)[c] = (*means)[c + 1] = ((*means)[c] + (*means)[c + 1]) / 2;
    const auto [i, j] = found.exponents;
    const double least = slow.error(slow.factors(i, j), context_);
    EXPECT_LT(least, 0.9 * slow.error(slow.factors(0, 0), context_));
    for (const auto& [di, dj] : {std::pair{0.05, 0.0}, {-0.05, 0.0}, {0.0, 0.05}, {0.0, -0.05}}) {
      if (std::min(i + di, j + dj) < 0 || std::max(i + di, j + dj) > 1) continue;
      EXPECT_LE(least, (1 + 1e-5) * slow.error(slow.factors(i + di, j + dj), context_)) << di << " " << dj;
    }
    const std::vector<float> expected = slow.factors(i, j);
    ASSERT_EQ(found.factors.size(), kCols);
    for (size_t c = 0; c < kCols; ++c) EXPECT_NEAR(found.factors[c] / expected[c], 1, 1e-4) << c;
  }
}

TEST_F(Awq, SearchLooksAtRowsOfTheWholeMatrix) {
  constexpr size_t kCols = 32, kRows = 1000;
  const InputStatistics statistics = statistics_of(inputs_of(40, kCols), kCols);
  const auto weights = gaussian(kRows * kCols, 0.02f, 78);
  std::vector<float> rows;
  for (size_t row = 0; row < 128; ++row)
    rows.insert(rows.end(), weights.begin() + static_cast<int64_t>(row * kRows / 128 * kCols),
                weights.begin() + static_cast<int64_t>((row * kRows / 128 + 1) * kCols));
  const MatrixTask all = matrix_task(weights, kCols, "int3-g32-sym"), some = matrix_task(rows, kCols, "int3-g32-sym");
  EXPECT_EQ(find_input_scaling({&all, 1}, statistics, {}, {}, context_).factors,
            find_input_scaling({&some, 1}, statistics, {}, {}, context_).factors);
}

// The weights that give the least squared error to the outputs wanted solve (W' - W) (H + damp) = missing.
TEST_F(Awq, AimedWeightsSolveTheNormalEquations) {
  constexpr size_t kCols = 48, kRows = 5;
  InputStatistics statistics = statistics_of(inputs_of(100, kCols), kCols);
  const auto weights = gaussian(kRows * kCols, 0.02f, 79);
  const auto missing = gaussian(kRows * kCols, 3, 80);
  statistics.missing = {missing};
  const MatrixTask task = matrix_task(weights, kCols, "int4-g16-sym");
  const MatrixTask found = aimed({&task, 1}, statistics, {}, context_).front();
  std::vector<float> moved(kRows * kCols);
  found.read(2, 3, std::span(moved).subspan(2 * kCols));
  found.read(0, 2, std::span(moved).first(2 * kCols));
  double damp = 0;
  for (size_t c = 0; c < kCols; ++c) damp += 0.01 * statistics.second_moment[c * (kCols + 1)] / kCols;
  for (size_t row = 0; row < kRows; ++row)
    for (size_t c = 0; c < kCols; ++c) {
      double sum = 0;
      for (size_t k = 0; k < kCols; ++k)
        sum += (static_cast<double>(moved[row * kCols + k]) - weights[row * kCols + k]) *
               (statistics.second_moment[k * kCols + c] + (k == c ? damp : 0));
      EXPECT_NEAR(sum, missing[row * kCols + c], 0.02);
    }
  EXPECT_TRUE(statistics.missing.empty());
  statistics.missing = {missing};
  statistics.missing[0][3] = std::numeric_limits<float>::infinity();
  aimed({&task, 1}, statistics, {}, context_).front().read(0, kRows, moved);
  EXPECT_EQ(moved, weights);
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

TEST_P(Folding, ColumnsIn16BitsAreFoldedToo) {
  const at::NoGradGuard no_grad;
  options_.outliers = 3;
  const std::vector<TensorPlan> plan = plan_tensors(*source_, options_);
  const auto walk = make_layer_walk(*source_, plan, options_, temp_.path() / "state", context_);
  fs::create_directories(temp_.path() / "out");
  EXPECT_FALSE(quantize_model(*source_, temp_.path() / "out", options_, context_).fell_back());
  const auto artifact = open_model(temp_.path() / "out");
  for (int64_t layer = 0; layer < source_->config().layers; ++layer) {
    RoleTensors folded = load_layer(*source_, layer);
    fold(layer, walk->solve_layer(layer), folded);
    for (const TensorRule& rule : source_->config().family->tensors) {
      if (!is_per_layer(rule.role) || rule.input == Input::kNone || rule.part != Part::kWeight) continue;
      const QuantizedMatrix stored = artifact->read_quantized(artifact->at(hf_name(rule, layer)));
      ASSERT_EQ(stored.outlier_columns.size(), 3u);
      for (int64_t row = 0; row < stored.rows; ++row)
        for (size_t k = 0; k < 3; ++k) {
          const float expected = folded(rule.role)[row][stored.outlier_columns[k]].item<float>();
          const float value = stored.outliers[static_cast<size_t>(row) * 3 + k];  // rounded once or twice
          EXPECT_NEAR(value, expected, std::abs(expected) / 1000 + 1e-7f) << hf_name(rule, layer);
        }
    }
  }
  EXPECT_GT(scaled_, 0);
  EXPECT_GT(folded_, 0);
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

TEST_F(Awq, AimedAtTheFloatModelTheResultIsCloserToIt) {
  const at::NoGradGuard no_grad;
  testing::write_tiny_model(temp_.path() / "model", {.seed = 86});
  const auto source = open_model(temp_.path() / "model");
  QuantizeOptions options;
  options.scheme = "int3-g32-sym";
  options.calibration = kText;
  options.samples = 24;
  options.sequence_length = 48;
  options.precision = "f32";
  const at::Tensor ids = calibration_windows(*source, kText, 24, 48, "test");
  const at::Tensor exact = forward_logits(source->config(), load_weights(*source), ids);
  for (const char* method : {"awq", "awq+gptq"}) {
    std::map<std::string, double> misses;
    for (const char* aim : {"quantized", "float"}) {
      options.method = method;
      options.aim = aim;
      const fs::path out = temp_.path() / method / aim;
      fs::create_directories(out);
      quantize_model(*source, out, options, context_);
      const auto artifact = open_model(out);
      misses[aim] = (forward_logits(artifact->config(), load_weights(*artifact), ids) - exact).norm().item<double>();
    }
    EXPECT_LT(misses["float"], 0.95 * misses["quantized"]) << method;
  }
}

// Small columns in 16 bits lose bits when they are divided; they and those behind them are divided all the same.
TEST(DivideRows, DividesAllColumnsIn16Bits) {
  QuantizedMatrix matrix = make_quantized(parse_scheme("int4-g32-sym"), 1, 32);
  matrix.codes.assign(32, 8);
  matrix.scales = {1.0f};
  matrix.outlier_columns = {0, 1};
  matrix.outliers = {0x3p-24f, 1.0f};
  SolvedLayer layer;
  layer.matrices["up"] = {.matrix = matrix, .method = "gptq", .fallback = {}, .row_divisors = {4.0f}};
  divide_rows(layer);
  const QuantizedMatrix& divided = *layer.matrices["up"].matrix;
  EXPECT_EQ(divided.scales, std::vector<float>{0.25f});
  EXPECT_EQ(divided.outliers, (std::vector<float>{0x1p-24f, 0.25f}));
}

}  // namespace
}  // namespace retort
