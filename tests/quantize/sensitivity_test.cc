// --scheme auto with a text: the divergence of one rounded matrix, and what follows from it.
#include "quantize/allocate/sensitivity.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "model/calibration.h"
#include "model/decoder.h"
#include "model/shards.h"
#include "quantize/artifact.h"
#include "quantize/rounding.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

const fs::path kTeacher = RETORT_SOURCE_DIR "/recipes/quickstart/teacher";
const char* const kText = RETORT_SOURCE_DIR "/recipes/quickstart/heldout.txt";

class Sensitivity : public ::testing::Test {
 protected:
  static QuantizeOptions options() {
    QuantizeOptions result;
    result.scheme = "auto";
    result.size = "4.5bpw";
    result.calibration = kText;
    result.sequence_length = 64;
    result.samples = 4;
    return result;
  }

  std::vector<double> measure(const ModelSource& source, std::span<const TensorPlan> plans, int threads) {
    ThreadPool pool(threads);
    Context context{pool, sink_};
    Json report = Json::object();
    return measure_sensitivity(source, plans, options(), context, report);
  }

  QuantizeSummary quantize(const ModelSource& source, const QuantizeOptions& chosen, const std::string& output,
                           int threads = 2) {
    fs::create_directories(temp_.path() / output);
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return quantize_model(source, temp_.path() / output, chosen, context);
  }

  // In bits per weight, as a refusal names it; the result is within it.
  double smallest_size(const ModelSource& source, QuantizeOptions chosen) {
    chosen.size = "1bpw";
    try {
      quantize(source, chosen, "refused");
    } catch (const Error& error) {
      const std::string message = error.what();
      chosen.size = message.substr(message.rfind(' ') + 1);
    }
    EXPECT_LE(quantize(source, chosen, "smallest").bits_per_weight, std::stod(chosen.size));
    return std::stod(chosen.size);
  }

  testing::TempDir temp_;
  ProgressSink sink_;
};

// Mean KL(p || q) in nats per token, from whole forward passes in float64 sums.
double divergence(const ModelSource& source, const DecoderWeights& changed) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = calibration_windows(source, kText, 4, 64, "test");
  const at::Tensor p = at::log_softmax(forward_logits(source.config(), load_weights(source), ids), -1).to(at::kDouble);
  const at::Tensor q = at::log_softmax(forward_logits(source.config(), changed, ids), -1).to(at::kDouble);
  return (p.exp() * (p - q)).sum(-1).mean().item<double>();
}

TEST_F(Sensitivity, IsTheDivergenceOfOneRoundedMatrixPerSquaredError) {
  prepare_torch();
  for (const bool tied : {false, true}) {
    const fs::path directory = temp_.path() / (tied ? "tied" : "untied");
    testing::write_tiny_model(directory,
                              {.hidden_size = 256, .ffn_size = 512, .layers = 2, .head_dim = 64, .tied = tied});
    const auto source = open_model(directory);
    const std::vector<TensorPlan> plans = plan_tensors(*source, options());
    const std::vector<double> coefficients = measure(*source, plans, 2);
    ThreadPool pool(2);
    Context context{pool, sink_};
    for (size_t i = 0; i < plans.size(); ++i) {
      TensorPlan plan = plans[i];
      if (plan.candidates.empty()) {
        EXPECT_EQ(coefficients[i], 0.0) << plan.tensor->name;
        continue;
      }
      plan.scheme = parse_scheme("q3_k");
      const SolvedMatrix solved = round_to_nearest(task_of(*source, plan), {}, GridRule::kSmallestError, context);
      at::Tensor values = at::empty({solved.matrix->rows, solved.matrix->cols});
      dequantize_rows(*solved.matrix, 0, solved.matrix->rows,
                      {values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())});
      DecoderWeights changed = load_weights(*source);
      (plan.layer < 0 ? changed.top : changed.layers[static_cast<size_t>(plan.layer)])(plan.rule->role) = values;
      if (tied && plan.rule->role == Role::kEmbedding) changed.top(Role::kHead) = values;
      const double expected = divergence(*source, changed) / std::pow(*solved.relative_error, 2);
      EXPECT_NEAR(coefficients[i], expected, 0.01 * expected + 1e-6) << plan.tensor->name;
    }
    EXPECT_EQ(coefficients, measure(*source, plans, 1));
  }
}

TEST_F(Sensitivity, IsCloserToTheTeacherThanAMixOfTheSameSize) {
  const auto source = open_model(kTeacher);
  QuantizeOptions chosen = options();
  chosen.scheme = "q4_0";
  chosen.size.clear();
  const QuantizeSummary uniform = quantize(*source, chosen, "uniform");
  chosen = options();
  chosen.size = std::to_string(uniform.bits_per_weight) + "bpw";
  const QuantizeSummary summary = quantize(*source, chosen, "auto", 1);
  EXPECT_LE(summary.bits_per_weight, uniform.bits_per_weight + 1e-5);
  const double ours = divergence(*source, load_weights(*open_model(temp_.path() / "auto")));
  const double theirs = divergence(*source, load_weights(*open_model(temp_.path() / "uniform")));
  EXPECT_LT(ours, 0.9 * theirs);
  EXPECT_NEAR(summary.allocation["expected_loss"].get<double>(), ours, 0.5 * ours);
  quantize(*source, chosen, "again", 2);
  EXPECT_EQ(digest_of_path(temp_.path() / "auto"), digest_of_path(temp_.path() / "again"));
}

// Vectors that factors are folded into take more room than in the checkpoint.
TEST_F(Sensitivity, ASizeCountsWhatScalingAndTuningStoreInFloat32) {
  testing::write_tiny_model(temp_.path() / "model",
                            {.hidden_size = 256, .ffn_size = 512, .layers = 2, .head_dim = 64, .dtype = DType::kBF16});
  const auto source = open_model(temp_.path() / "model");
  QuantizeOptions chosen = options();
  chosen.types = "q4_k";
  const double plain = smallest_size(*source, chosen);
  chosen.method = "awq";
  const double folded = smallest_size(*source, chosen);
  chosen.method = "rtn";
  chosen.tune_scales = 1;
  EXPECT_EQ(smallest_size(*source, chosen), folded);
  EXPECT_GT(folded, plain);
}

}  // namespace
}  // namespace retort
