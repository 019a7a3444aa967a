// What --for says before the work is what export does after it.
#include "quantize/targets.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/base/error.h"
#include "core/pack/scheme_names.h"
#include "export/exporter.h"
#include "quantize/mixes.h"
#include "quantize/quantize.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

class Verdicts : public ::testing::Test {
 protected:
  std::string export_error(const ModelSource& model, const std::string& format) {
    const fs::path output = temp_.path() / "exported";
    fs::remove_all(output);
    if (export_format(format).directory) fs::create_directories(output);
    try {
      export_model(model, output, {.format = format, .type = {}}, context_);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }

  // Of vLLM, whose kernels hold less than its format.
  static bool is_of_kernels(const TargetVerdict& verdict) {
    return verdict.reasons.front().find("Marlin") != std::string::npos;
  }

  void compare(const ModelSource& source, const QuantizeOptions& options) {
    fs::remove_all(temp_.path() / "quantized");
    fs::create_directories(temp_.path() / "quantized");
    quantize_model(source, temp_.path() / "quantized", options, context_);
    const auto quantized = open_model(temp_.path() / "quantized");
    const std::vector<TensorPlan> plans = plan_tensors(source, options);
    for (const std::string& target : target_names()) {
      const TargetVerdict verdict = judge_target(target, plans);
      if (!verdict.loads() && is_of_kernels(verdict)) continue;
      const std::string error = export_error(*quantized, std::string(find_target(target).format));
      EXPECT_EQ(verdict.loads(), error.empty())
          << options.scheme << " for " << target << ": " << (error.empty() ? verdict.reasons.front() : error);
    }
  }

  void compare_all(const testing::TinyModel& shape) {
    testing::write_tiny_model(temp_.path() / "model", shape);
    const auto source = open_model(temp_.path() / "model");
    std::vector<std::string> schemes = scheme_names();
    for (const char* more : {"int4-g16-sym", "int4-g256-sym", "int4-g256-asym", "int8-g96-sym", "nf4-g32"})
      schemes.emplace_back(more);
    for (std::string& mix : mix_names()) schemes.push_back(std::move(mix));
    for (const std::string& scheme : schemes) {
      if (is_dense(scheme)) continue;
      QuantizeOptions options;
      options.scheme = scheme;
      options.grid = "max";
      compare(*source, options);
    }
    for (const char* kept : {"int8-channel-sym", "q8_0", "bf16"}) {
      QuantizeOptions options;
      options.scheme = "q4_0";
      options.keep = {{"model.embed*", kept}, {"lm_head*", kept}};
      compare(*source, options);
    }
  }

  // Dense types, which do not quantize.
  static bool is_dense(const std::string& scheme) {
    return find_mix(scheme) == nullptr && parse_scheme(scheme).is_dense();
  }

  testing::TempDir temp_;
  ThreadPool pool_{2};
  ProgressSink sink_;
  Context context_{pool_, sink_};
};

TEST_F(Verdicts, AreWhatTheExportDoes) {
  compare_all({.hidden_size = 256, .ffn_size = 512, .layers = 1, .head_dim = 64, .dtype = DType::kBF16});
}

// 176 columns hold no whole blocks, nor whole words of 3-bit codes.
TEST_F(Verdicts, AreWhatTheExportDoesOfOddShapes) {
  compare_all({.hidden_size = 64, .ffn_size = 176, .layers = 1, .dtype = DType::kBF16});
}

TEST_F(Verdicts, NameTheTypeOfTheFormatAndTheNearestThatIsLoaded) {
  testing::write_tiny_model(temp_.path() / "model", {.hidden_size = 256, .ffn_size = 512, .layers = 1, .head_dim = 64});
  const auto source = open_model(temp_.path() / "model");
  const auto judge = [&](const char* target, const char* scheme) {
    QuantizeOptions options;
    options.scheme = scheme;
    return judge_target(target, plan_tensors(*source, options));
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(judge("llama.cpp", "int4-g128-asym").held_as, Lines{"int4-g128-asym as q5_0"});
  EXPECT_EQ(judge("llama.cpp", "q4_k_m").held_as, Lines{});
  EXPECT_EQ(judge("mlx", "int4-g256-sym").held_as, Lines{"int4-g256-sym as int4-g128-sym"});
  EXPECT_EQ(judge("vllm", "int4-tensor-sym").held_as, Lines{"int4-tensor-sym as int4-channel-sym"});
  EXPECT_EQ(
      judge("llama.cpp", "int8-g32-asym").reasons,
      Lines{"model.layers.0.self_attn.q_proj.weight: int8-g32-asym: q8_0 has no zero points, and these codes need "
            "them; the nearest that it loads is q8_0"});
  EXPECT_EQ(judge("vllm", "int3-g64-asym").reasons,
            Lines{"model.layers.0.self_attn.q_proj.weight: int3-g64-asym: Marlin kernels have 4-bit codes, and 8-bit "
                  "ones without zero points; the nearest that it loads is int4-g128-sym"});
}

}  // namespace
}  // namespace retort
