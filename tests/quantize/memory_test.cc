// Estimates of memory: what is counted, on models of which nothing but the shapes exists.
#include "quantize/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "quantize/allocate/measured_units.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

// Tensors in bf16 that cannot be read.
class ShapesAlone : public ModelSource {
 public:
  explicit ShapesAlone(const testing::TinyModel& model) : config_(parse_config(testing::tiny_config(model), "shapes")) {
    for (const ExpectedTensor& expected : expected_tensors(config_))
      tensors_.push_back({.name = expected.name, .shape = expected.shape, .scheme = parse_scheme("bf16")});
  }
  const std::filesystem::path& path() const override { return path_; }
  std::string_view container() const override { return "shapes"; }
  const ModelConfig& config() const override { return config_; }
  std::span<const ModelTensor> tensors() const override { return tensors_; }
  std::span<const std::string> problems() const override { return {}; }
  void read_f32(const ModelTensor&, int64_t, int64_t, std::span<float>) const override { FAIL(); }
  void read_dense(const ModelTensor&, int64_t, int64_t, std::span<std::byte>) const override { FAIL(); }
  QuantizedMatrix read_quantized_rows(const ModelTensor&, int64_t, int64_t) const override { return {}; }
  std::span<const SideFile> side_files() const override { return {}; }
  std::string chat_template() const override { return {}; }
  std::unique_ptr<Tokenizer> tokenizer() const override { return nullptr; }

 private:
  std::filesystem::path path_ = "shapes";
  ModelConfig config_;
  std::vector<ModelTensor> tensors_;
};

class Memory : public ::testing::Test {
 protected:
  uint64_t estimate(const ModelSource& source, const QuantizeOptions& options) {
    return estimate_memory(source, plan_tensors(source, options), options, context_);
  }

  ProgressSink sink_;
  ThreadPool pool_{1};
  Context context_{pool_, sink_};
};

// An earlier stage of a recipe may have taken more than this process has now.
TEST_F(Memory, CountsWhatTheProcessHasAndNotWhatItHad) {
  const ShapesAlone source({});
  const uint64_t before = estimate(source, {});
  constexpr size_t kStage = size_t{256} << 20;
  {
    std::vector<char> stage(kStage);
    std::memset(stage.data(), 1, stage.size());
    EXPECT_GT(estimate(source, {}), before + kStage * 9 / 10);
  }
  ASSERT_GT(peak_resident_bytes(), kStage);
  EXPECT_LT(estimate(source, {}), before + kStage / 10);
}

// The float model, and the rounded matrices of all layers that are measured together.
TEST_F(Memory, CountsTheMatricesThatAreMeasuredTogether) {
  const ShapesAlone source({.vocab_size = 32000,
                            .hidden_size = 4096,
                            .ffn_size = 11008,
                            .layers = 32,
                            .heads = 32,
                            .kv_heads = 8,
                            .head_dim = 128,
                            .context_length = 4096});
  QuantizeOptions options;
  options.scheme = "auto";
  options.size = "4.5bpw";
  options.calibration = "absent.txt";
  const std::vector<TensorPlan> plans = plan_tensors(source, options);
  const SensitivityWindows windows = sensitivity_windows(source.config(), options);
  uint64_t together = 0, layers = 0;
  for (const MeasuredUnit& unit : measured_units(source.config(), plans, windows).units) {
    uint64_t bytes = 0;
    for (const size_t member : unit.members) bytes += 4 * static_cast<uint64_t>(plans[member].tensor->elements());
    together = std::max(together, bytes);
    layers = std::max<uint64_t>(layers, unit.members.size());
  }
  ASSERT_GT(layers, 1u);
  const uint64_t states = 4 * static_cast<uint64_t>(windows.count * windows.length * (33 * 4096 + 32000));
  const uint64_t weights = 4 * static_cast<uint64_t>(source.config().parameters());
  EXPECT_GE(estimate(source, options), weights + together + states);
}

TEST_F(Memory, CountsATextThatIsRead) {
  const testing::TempDir temp;
  const std::filesystem::path text = temp.path() / "text.txt";
  std::ofstream(text) << "a";
  QuantizeOptions options;
  options.calibration = temp.path().string();
  for (const char* method : {"imatrix", "gptq"}) {
    options.method = method;
    std::filesystem::resize_file(text, 1);
    EXPECT_LT(estimate(ShapesAlone({}), options), uint64_t{2} << 30) << method;
    std::filesystem::resize_file(text, uint64_t{4} << 30);  // of which nothing is on the disk
    EXPECT_GT(estimate(ShapesAlone({}), options), uint64_t{8} << 30) << method;
  }
}

}  // namespace
}  // namespace retort
