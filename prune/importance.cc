#include "prune/importance.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/base/text.h"
#include "model/decoder.h"
#include "model/shards.h"

namespace retort {
namespace {

constexpr int64_t kShardTokens = 2048;  // that go through a layer together

// What one shard adds to a layer's scores.
struct ShardSums {
  double distance = 0;
  at::Tensor squares;  // [channels] float64
};

ShardSums run_layer(const ModelConfig& config, int64_t layer, const RoleTensors& weights, at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  ShardSums sums;
  const auto watch = [&](Input input, const at::Tensor& states) {
    if (input == Input::kFfn) sums.squares = states.flatten(0, 1).square().sum(0, false, at::kDouble).cpu();
  };
  const at::Tensor after = layer_forward(config, layer, weights, hidden, nullptr, watch);
  sums.distance = (1 - at::cosine_similarity(hidden, after, -1)).sum(at::kDouble).item<double>();
  hidden = after;
  return sums;
}

// An upper estimate in bytes: LibTorch, the hidden states of all windows, one layer or the embedding, and what the
// shards in work hold between the operations of a layer.
uint64_t needed_bytes(const ModelConfig& c, const at::Tensor& windows, int64_t threads) {
  constexpr int64_t kProgram = int64_t{320} << 20, kFloat = sizeof(float);
  const int64_t embedding = c.vocab_size * c.hidden_size;
  const int64_t layer = c.hidden_size * (3 * c.ffn_size + 2 * c.query_size() + 2 * c.kv_size());
  const int64_t states = 6 * c.hidden_size + 4 * c.query_size() + 4 * c.kv_size() + 4 * c.ffn_size;
  const int64_t tokens = std::max(kShardTokens, windows.size(1)) * threads;
  return static_cast<uint64_t>(
      kProgram + kFloat * (windows.numel() * c.hidden_size + std::max(embedding, layer) + tokens * states));
}

void check_memory(const ModelConfig& config, const at::Tensor& windows, const Context& context) {
  const uint64_t needed = needed_bytes(config, windows, context.threads.size());
  if (context.memory_limit != 0 && needed > context.memory_limit)
    fail("prune", "--memory",
         "scoring takes about " + format_bytes(needed) + ", above the limit of " + format_bytes(context.memory_limit),
         "Give more, or fewer --samples");
}

std::vector<at::Tensor> embed_shards(const ModelSource& source, const at::Tensor& windows, const Placement& placement) {
  const RoleTensors top = load_top(source, placement);
  std::vector<at::Tensor> hidden;
  for (const at::Tensor& ids : windows.split(std::max<int64_t>(1, kShardTokens / windows.size(1))))
    hidden.push_back(embed(top, ids.to(placement.device)));
  return hidden;
}

void add_layer(const std::vector<ShardSums>& shards, int64_t tokens, Importance& importance) {
  double distance = 0;
  at::Tensor squares = at::zeros_like(shards.front().squares);
  for (const ShardSums& shard : shards) {
    distance += shard.distance;
    squares += shard.squares;
  }
  const at::Tensor norms = squares.sqrt();
  const double* first = norms.const_data_ptr<double>();
  importance.layers.push_back(distance / static_cast<double>(tokens));
  importance.channels.emplace_back(first, first + norms.numel());
}

}  // namespace

Importance measure_importance(const ModelSource& source, const at::Tensor& windows, const Context& context) {
  prepare_torch();
  const ModelConfig& config = source.config();
  const Placement placement{at::kFloat, parse_device(context.device)};
  check_memory(config, windows, context);
  std::vector<at::Tensor> hidden = embed_shards(source, windows, placement);
  Importance importance;
  context.progress.begin("score", config.layers, "layers");
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    context.check_interrupted();
    const RoleTensors weights = load_layer(source, layer, placement);
    std::vector<ShardSums> shards(hidden.size());
    run_shards(context, static_cast<int64_t>(hidden.size()), [&](int64_t i) {
      shards[static_cast<size_t>(i)] = run_layer(config, layer, weights, hidden[static_cast<size_t>(i)]);
    });
    add_layer(shards, windows.numel(), importance);
    context.progress.update(layer + 1);
  }
  context.progress.end();
  return importance;
}

std::vector<int64_t> most_important(std::span<const double> scores, int64_t keep) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](int64_t i) { return scores[static_cast<size_t>(i)]; });
  order.resize(static_cast<size_t>(keep));
  std::ranges::sort(order);
  return order;
}

}  // namespace retort
