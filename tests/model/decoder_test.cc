// Every family against transformers: the models and logits of tests/golden/families (make_families.py).
#include "model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/base/json.h"
#include "core/checkpoint/safetensors.h"
#include "model/shards.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

const fs::path kFamilies = fs::path(RETORT_SOURCE_DIR) / "tests/golden/families";
constexpr double kTolerance = 1e-4;

at::Tensor golden(const SafetensorsFile& file, std::string_view name) {
  for (const TensorInfo& info : file.tensors()) {
    if (info.name != name) continue;
    const auto type = info.dtype == DType::kI64 ? at::kLong : at::kFloat;
    at::Tensor tensor = at::empty(info.shape, type);
    std::memcpy(tensor.mutable_data_ptr(), file.data(info).data(), info.bytes);
    return tensor;
  }
  throw std::runtime_error("no golden " + std::string(name));
}

double max_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

class Families : public testing::TestWithParam<std::string> {
 protected:
  const fs::path directory = kFamilies / GetParam();
  const std::unique_ptr<ModelSource> source = open_model(directory);
  const ModelConfig& config = source->config();
  const DecoderWeights weights = load_weights(*source);
  const SafetensorsFile file{directory / "golden.safetensors"};
  const at::Tensor ids = golden(file, "input_ids");
  const at::Tensor expected = golden(file, "logits");
  const at::NoGradGuard no_grad;
};

TEST_P(Families, LogitsEqualTransformers) {
  EXPECT_LE(max_difference(forward_logits(config, weights, ids), expected), kTolerance);
}

TEST_P(Families, CachedStepsEqualTransformers) {
  const at::Tensor steps = golden(file, "step_logits");
  const int64_t prefill = ids.size(1) - steps.size(1);
  DecoderCache cache;
  const at::Tensor first = forward_logits(config, weights, ids.narrow(1, 0, prefill), &cache);
  if (config.rope.scaling != RopeScaling::kLongRope) {  // it has other frequencies in a pass that ends further on
    EXPECT_LE(max_difference(first, expected.narrow(1, 0, prefill)), kTolerance);
  }
  for (int64_t i = 0; i < steps.size(1); ++i) {
    const at::Tensor logits = forward_logits(config, weights, ids.narrow(1, prefill + i, 1), &cache);
    EXPECT_LE(max_difference(logits, steps.narrow(1, i, 1)), kTolerance) << "step " << i;
  }
  EXPECT_EQ(cache.tokens, ids.size(1));
}

TEST_P(Families, SeveralTokensBehindTheCacheEqualOnePass) {
  // LongRoPE has other frequencies in a pass that ends beyond the original context: there the text ends with it.
  const bool longrope = config.rope.scaling == RopeScaling::kLongRope;
  const at::Tensor text =
      ids.narrow(1, 0, longrope ? std::min(config.rope.original_context, ids.size(1)) : ids.size(1));
  const at::Tensor whole = longrope ? forward_logits(config, weights, text) : expected;
  DecoderCache cache;
  std::vector<at::Tensor> parts;
  for (const int64_t end : {int64_t{5}, int64_t{25}, text.size(1)})
    parts.push_back(forward_logits(config, weights, text.narrow(1, cache.tokens, end - cache.tokens), &cache));
  EXPECT_LE(max_difference(at::cat(parts, 1), whole), kTolerance);
}

TEST_P(Families, RowsOfABatchAreIndependent) {
  const at::Tensor other = ids.flip(1);
  const at::Tensor both = forward_logits(config, weights, at::cat({ids, other}));
  EXPECT_LE(max_difference(both.narrow(0, 0, 1), expected), kTolerance);
  EXPECT_LE(max_difference(both.narrow(0, 1, 1), forward_logits(config, weights, other)), kTolerance);
}

TEST_P(Families, ConfigOfTransformers4IsTheSameModel) {
  const ModelConfig old = parse_config(read_json_file(directory / "config_v4.json"), "config_v4.json");
  EXPECT_EQ(rope_frequencies(old), rope_frequencies(config));
  EXPECT_EQ(old.windows, config.windows);
  EXPECT_EQ(old.dtype, config.dtype);
  EXPECT_EQ(old.head_dim, config.head_dim);
  EXPECT_LE(max_difference(forward_logits(old, weights, ids), expected), kTolerance);
}

std::vector<std::string> golden_models() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFamilies)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, Families, testing::ValuesIn(golden_models()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Goldens, EveryFamilyHasOne) {
  std::set<std::string_view> covered;
  for (const std::string& name : golden_models())
    covered.insert(open_model(kFamilies / name)->config().family->model_type);
  for (const Family& family : families()) EXPECT_TRUE(covered.contains(family.model_type)) << family.model_type;
}

// What the quantizer and the pruner rely on: each group of matrices is seen with exactly what it multiplies.
TEST(LayerForward, CapturesTheInputsOfItsMatrices) {
  const auto source = open_model(kFamilies / "llama-bias");
  const ModelConfig& config = source->config();
  const DecoderWeights weights = load_weights(*source);
  const RoleTensors& layer = weights.layers[0];
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = embed(weights.top, at::arange(12).view({2, 6}));
  std::map<Input, at::Tensor> seen;
  const at::Tensor output = layer_forward(config, 0, layer, hidden, nullptr, [&](Input input, const at::Tensor& x) {
    EXPECT_TRUE(seen.emplace(input, x).second);
  });
  ASSERT_EQ(seen.size(), 4u);
  const auto apply = [&](Role role, Input input) {
    return at::linear(seen.at(input), layer(role), layer(role, Part::kBias));
  };
  const at::Tensor middle = hidden + apply(Role::kAttentionOutput, Input::kAttention);
  EXPECT_LE(max_difference(middle + apply(Role::kDown, Input::kFfn), output), 1e-6);
  const at::Tensor gated = at::silu(apply(Role::kGate, Input::kFfnNorm)) * apply(Role::kUp, Input::kFfnNorm);
  EXPECT_LE(max_difference(gated, seen.at(Input::kFfn)), 1e-6);
  EXPECT_EQ(seen.at(Input::kAttentionNorm).sizes(), hidden.sizes());
}

TEST(LayerForward, GradientsEqualFiniteDifferences) {
  const auto source = open_model(kFamilies / "qwen3-sliding");
  const ModelConfig& config = source->config();
  DecoderWeights weights = load_weights(*source, {at::kDouble, at::kCPU});
  const at::Tensor ids = at::arange(20).unsqueeze(0);
  const auto loss = [&] { return forward_logits(config, weights, ids).log_softmax(-1).select(-1, 3).mean(); };
  for (const Role role : {Role::kQuery, Role::kKeyNorm, Role::kValue, Role::kGate, Role::kDown}) {
    at::Tensor& weight = weights.layers[0](role);
    weight.requires_grad_(true);
    loss().backward();
    const double slope = weight.grad().flatten()[5].item<double>();
    weight.requires_grad_(false);
    at::Tensor cell = weight.flatten()[5];
    constexpr double kStep = 1e-5;
    cell.add_(kStep);
    const double above = loss().item<double>();
    cell.sub_(2 * kStep);
    const double below = loss().item<double>();
    cell.add_(kStep);
    EXPECT_NEAR(slope, (above - below) / (2 * kStep), 1e-7 + 1e-3 * std::abs(slope)) << static_cast<int>(role);
  }
}

}  // namespace
}  // namespace retort
