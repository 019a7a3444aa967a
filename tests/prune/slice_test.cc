// The pruned checkpoint computes what the whole one computes with those layers skipped and those channels zeroed.
#include "prune/slice.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/decoder.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

const Kept kKept{{0, 2}, {{0, 1, 5, 100, 159}, {7, 8, 9, 10, 158}}};

std::unique_ptr<ModelSource> prune_to(const std::filesystem::path& path, const ModelSource& source, const Kept& kept) {
  std::filesystem::create_directory(path);
  ModelWriter writer(path, source.side_files());
  write_kept(source, kept, writer);
  writer.finish(pruned_config(source.config(), kept), Json());
  return open_model(path);
}

at::Tensor some_ids() {
  testing::Random random(8);
  at::Tensor ids = at::empty({2, 24}, at::kLong);
  for (int64_t i = 0; i < ids.numel(); ++i) ids.mutable_data_ptr<int64_t>()[i] = random.below(256);
  return ids;
}

// Logits of `source` without the dropped layers, the dropped channels of the down projection's input zeroed.
at::Tensor masked_logits(const ModelSource& source, const Kept& kept, const at::Tensor& ids) {
  const ModelConfig& config = source.config();
  DecoderWeights weights = load_weights(source, {at::kDouble});
  at::Tensor hidden = embed(weights.top, ids);
  for (size_t i = 0; i < kept.layers.size(); ++i) {
    RoleTensors& layer = weights.layers[static_cast<size_t>(kept.layers[i])];
    if (!kept.channels.empty()) {
      at::Tensor mask = at::zeros({config.ffn_size}, at::kDouble);
      for (const int64_t channel : kept.channels[i]) mask[channel] = 1;
      layer(Role::kDown) = layer(Role::kDown) * mask;
    }
    hidden = layer_forward(config, kept.layers[i], layer, hidden);
  }
  return head_logits(weights.top, final_norm(config, weights.top, hidden));
}

void expect_equal_logits(const testing::TinyModel& model, const Kept& kept) {
  testing::TempDir dir;
  testing::write_tiny_model(dir.path() / "model", model);
  const auto source = open_model(dir.path() / "model");
  const auto pruned = prune_to(dir.path() / "pruned", *source, kept);
  EXPECT_TRUE(pruned->problems().empty());
  const at::Tensor ids = some_ids();
  const at::Tensor found = forward_logits(pruned->config(), load_weights(*pruned, {at::kDouble}), ids);
  const at::Tensor expected = masked_logits(*source, kept, ids);
  // Float64: what is left of a difference is the order of sums; norms and angles are float32 in both.
  EXPECT_LT((found - expected).abs().max().item<double>(), 1e-5);
  EXPECT_GT((found - masked_logits(*source, {{0, 1}, {}}, ids)).abs().max().item<double>(), 1e-2);
}

TEST(Slice, ComputesTheMaskedModel) { expect_equal_logits({}, kKept); }
TEST(Slice, DropsLayersAlone) { expect_equal_logits({}, {{1, 2}, {}}); }
TEST(Slice, FollowsTheFamilyTable) {
  expect_equal_logits({.model_type = "llama", .tied = true, .extra = {{"attention_bias", true}, {"mlp_bias", true}}},
                      kKept);
  expect_equal_logits({.model_type = "mistral", .window = 8}, kKept);
  expect_equal_logits({.model_type = "qwen2"}, kKept);
  expect_equal_logits({.model_type = "qwen3"}, kKept);
}

TEST(Slice, KeepsTheStoredBytes) {
  testing::TempDir dir;
  testing::write_tiny_model(dir.path() / "model", {.dtype = DType::kBF16});
  const auto source = open_model(dir.path() / "model");
  const auto pruned = prune_to(dir.path() / "pruned", *source, kKept);
  EXPECT_EQ(pruned->config().layers, 2);
  EXPECT_EQ(pruned->config().ffn_size, 5);
  EXPECT_EQ(pruned->at("model.layers.1.mlp.up_proj.weight").scheme.dense, DType::kBF16);
  const auto before = source->read_f32(source->at("model.layers.2.mlp.up_proj.weight"));
  const auto after = pruned->read_f32(pruned->at("model.layers.1.mlp.up_proj.weight"));
  const int64_t hidden = source->config().hidden_size;
  for (size_t row = 0; row < 5; ++row)
    for (int64_t col = 0; col < hidden; ++col)
      EXPECT_EQ(after[row * hidden + col], before[kKept.channels[1][row] * hidden + col]);
}

TEST(Slice, CarriesTheSideFilesOver) {
  testing::TempDir dir;
  testing::write_tiny_model(dir.path() / "model", {});
  const auto source = open_model(dir.path() / "model");
  const auto pruned = prune_to(dir.path() / "pruned", *source, kKept);
  ASSERT_FALSE(source->side_files().empty());
  for (const SideFile& file : source->side_files()) {
    ASSERT_NE(pruned->side_file(file.name), nullptr) << file.name;
    EXPECT_EQ(pruned->side_file(file.name)->bytes, file.bytes);
  }
}

}  // namespace
}  // namespace retort
