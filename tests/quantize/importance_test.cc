// The method "imatrix": importance measured on a text, taken from a file, and what it is worth.
#include "quantize/calibration/importance.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "model/calibration.h"
#include "model/decoder.h"
#include "quantize/importance.h"
#include "quantize/rounding.h"
#include "tests/quantize/matrix_task.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::Each;
using ::testing::HasSubstr;
const char* const kText = RETORT_SOURCE_DIR "/recipes/quickstart/heldout.txt";

class Importance : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_tiny_model(path("model"),
                              {.model_type = "qwen2", .hidden_size = 256, .ffn_size = 512, .head_dim = 64, .seed = 91});
    source_ = open_model(path("model"));
    options_.scheme = "q4_k";
    options_.method = "imatrix";
    options_.samples = 9;
    options_.sequence_length = 48;
  }

  fs::path path(const std::string& name) const { return temp_.path() / name; }

  QuantizeSummary quantize(const std::string& output, const QuantizeOptions& options, int threads = 2) {
    fs::create_directories(path(output));
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return quantize_model(*source_, path(output), options, context);
  }

  std::string refusal(const QuantizeOptions& options) {
    try {
      quantize("refused", options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  testing::TempDir temp_;
  ProgressSink sink_;
  std::unique_ptr<ModelSource> source_;
  QuantizeOptions options_;
};

TEST_F(Importance, IsTheMeanSquareOfEachInput) {
  const at::NoGradGuard no_grad;
  options_.calibration = kText;
  ThreadPool pool(2);
  Context context{pool, sink_};
  const ImportanceMatrix measured = measure_importance(*source_, options_, context);
  EXPECT_EQ(measured.entries.size(), 3u * 7);
  EXPECT_EQ(measured.windows, 9);
  EXPECT_EQ(measured.window_tokens, 48);
  EXPECT_EQ(measured.texts.front(), "heldout.txt");
  const ModelConfig& config = source_->config();
  const DecoderWeights weights = load_weights(*source_);
  at::Tensor hidden = embed(weights.top, calibration_windows(*source_, kText, 9, 48, "test"));
  for (int64_t layer = 0; layer < config.layers; ++layer)
    hidden =
        layer_forward(config, layer, weights.layers[static_cast<size_t>(layer)], hidden, nullptr,
                      [&](Input input, const at::Tensor& states) {
                        const at::Tensor expected = states.to(at::kDouble).square().flatten(0, 1).mean(0);
                        for (const TensorRule& rule : config.family->tensors) {
                          if (rule.input != input) continue;
                          const ColumnActivity& activity = measured.entries.at(gguf_name(rule, layer));
                          EXPECT_EQ(activity.tokens, 9 * 48);
                          EXPECT_TRUE(at::allclose(at::tensor(activity.mean_square()).to(at::kDouble), expected, 1e-5));
                        }
                      });
}

TEST_F(Importance, OfAFileGivesTheBytesOfTheTextThatItWasMeasuredOn) {
  QuantizeOptions from_text = options_, from_file = options_;
  from_text.calibration = kText;
  from_text.save_imatrix = path("saved.gguf");
  from_file.imatrix = path("saved.gguf");
  from_file.save_imatrix = path("again.gguf");
  EXPECT_FALSE(quantize("text", from_text).fell_back());
  quantize("one", from_text, 1);
  quantize("file", from_file);
  EXPECT_EQ(digest_of_path(path("text")), digest_of_path(path("one")));
  EXPECT_EQ(digest_of_path(path("text")), digest_of_path(path("file")));
  EXPECT_EQ(digest_of_path(path("saved.gguf")), digest_of_path(path("again.gguf")));
}

TEST_F(Importance, MatricesOfWhichNothingIsKnownAreRoundedAndSaySo) {
  ImportanceMatrix matrix;
  matrix.entries["blk.1.ffn_up.weight"] = {std::vector<float>(256, 1.0f), 10};
  write_imatrix(path("one.gguf"), matrix);
  options_.imatrix = path("one.gguf");
  for (const TensorReport& tensor : quantize("out", options_).tensors) {
    const bool known = tensor.name == "model.layers.1.mlp.up_proj.weight";
    const bool linear = tensor.name.find("_proj.weight") != std::string::npos;
    EXPECT_EQ(tensor.method == "imatrix", known) << tensor.name;
    EXPECT_EQ(tensor.fallback.find("not weighted") == std::string::npos, known || !linear) << tensor.name;
  }
}

TEST_F(Importance, FilesOfAnotherModelAreRefused) {
  ImportanceMatrix matrix;
  matrix.entries["blk.7.ffn_up.weight"] = {std::vector<float>(256, 1.0f), 10};
  write_imatrix(path("deep.gguf"), matrix);
  matrix.entries["blk.1.ffn_up.weight"] = {std::vector<float>(64, 1.0f), 10};
  write_imatrix(path("narrow.gguf"), matrix);
  options_.imatrix = path("deep.gguf");
  EXPECT_THAT(refusal(options_), HasSubstr("no entry for any matrix"));
  options_.imatrix = path("narrow.gguf");
  EXPECT_THAT(refusal(options_), HasSubstr("has 64 columns, and model.layers.1.mlp.up_proj.weight has 256"));
}

TEST_F(Importance, ComesFromATextOrAFile) {
  EXPECT_THAT(refusal(options_), HasSubstr("--calibration TEXT or --imatrix FILE"));
  options_.calibration = kText;
  options_.imatrix = path("saved.gguf");
  EXPECT_THAT(refusal(options_), HasSubstr("one of them"));
  options_.method = "rtn";
  EXPECT_THAT(refusal(options_), HasSubstr("--imatrix: rtn does not use importance matrices"));
}

TEST_F(Importance, OfAFileGoesWithATextThatOthersRead) {
  options_.calibration = kText;
  options_.save_imatrix = path("saved.gguf");
  quantize("saved", options_);
  options_.save_imatrix.clear();
  options_.imatrix = path("saved.gguf");
  QuantizeOptions tuned = options_, automatic = options_;
  tuned.tune_scales = 1;
  EXPECT_EQ(quantize("tuned", tuned).tuning.size(), 1u);
  automatic.scheme = "auto";
  automatic.size = "5bpw";
  EXPECT_TRUE(quantize("auto", automatic).allocation.contains("windows"));
}

TEST_F(Importance, IsNotWrittenOverAnotherFile) {
  options_.calibration = kText;
  options_.save_imatrix = path("notes.txt");
  std::ofstream(options_.save_imatrix) << "not to be lost";
  EXPECT_THAT(refusal(options_), HasSubstr("would overwrite"));
  EXPECT_EQ(fs::file_size(options_.save_imatrix), 14u);
  options_.save_imatrix = path("nowhere") / "a.gguf";
  EXPECT_THAT(refusal(options_), HasSubstr("there is no folder"));
  options_.save_imatrix = path("again.gguf");
  for (int run = 0; run < 2; ++run) EXPECT_EQ(refusal(options_), "");
}

TEST(FlooredImportance, KeepsSilentColumnsFromHavingNoScale) {
  EXPECT_THAT(floored_importance({0, 0}), ::testing::IsEmpty());
  EXPECT_THAT(floored_importance({4, 0}), ::testing::ElementsAre(4, 4e-6f));
}

// The errors that matter fall: each column's squared error times its importance.
TEST_F(Importance, LowersTheWeightedErrorInEveryBlock) {
  const std::vector<float> weights = gaussian(16 * 512, 0.02f, 92);
  std::vector<float> importance;
  for (size_t c = 0; c < 512; ++c) importance.push_back(c % 7 == 0 ? 20.0f : c % 32 < 3 ? 0.0f : 1.0f);
  ThreadPool pool(2);
  Context context{pool, sink_};
  for (const char* scheme : {"q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q4_0", "q5_1", "iq4_nl", "iq4_xs", "int4-g64-sym",
                             "int3-g32-asym", "nf4-g64"}) {
    const MatrixTask task = matrix_task(weights, 512, scheme);
    const InputStatistics statistics{.features = 512, .second_moment = {}, .mean_square = importance};
    double errors[2] = {};
    for (const bool weighted : {false, true}) {
      const Rounding rounding =
          imatrix_rounding(task.scheme, weighted ? &statistics : nullptr, GridRule::kSmallestError);
      const SolvedMatrix solved = round_to_nearest(task, rounding, context);
      EXPECT_EQ(solved.method, weighted ? "imatrix" : "rtn");
      const std::vector<float> rounded = dequantize(*solved.matrix);
      for (size_t i = 0; i < weights.size(); ++i)
        errors[weighted] += importance[i % 512] * std::pow(rounded[i] - weights[i], 2.0);
    }
    EXPECT_LT(errors[1], 0.97 * errors[0]) << scheme;
  }
}

}  // namespace
}  // namespace retort
