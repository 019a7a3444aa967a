#include "model/training/trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "model/shards.h"

namespace retort {
namespace {

// ids [windows, tokens] -> what the head reads, [windows * tokens, hidden].
at::Tensor hidden_states(const ModelConfig& config, const DecoderWeights& weights, const at::Tensor& ids) {
  at::Tensor hidden = embed(weights.top, ids);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    hidden = layer_forward(config, layer, weights.layers[static_cast<size_t>(layer)], hidden);
  return final_norm(config, weights.top, hidden).flatten(0, 1);
}

at::Tensor teacher_states(const Teacher& teacher, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  return hidden_states(teacher.config, teacher.weights, ids);
}

bool is_untied_head(const ParameterSlice& slice) { return slice.rule->role == Role::kHead; }
// The tensor whose gradient the head's belongs to.
bool holds_head(const ModelConfig& config, const ParameterSlice& slice) {
  return slice.rule->role == (config.tied_embeddings ? Role::kEmbedding : Role::kHead);
}

// The gradients of all slices, from those at the head: autograd carries the one of the hidden states back through
// the decoder, the head's own is added where its weights are.
std::vector<at::Tensor> backward(const StudentParameters& student, const GraphLeaves& graph, const at::Tensor& hidden,
                                 const HeadGradients& at_head) {
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < student.slices.size(); ++i)
    if (!is_untied_head(student.slices[i])) inputs.push_back(graph.leaves[i]);
  const std::vector<at::Tensor> found = torch::autograd::grad({hidden}, inputs, {at_head.hidden});
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  size_t next = 0;
  for (const ParameterSlice& slice : student.slices) {
    gradients.push_back(is_untied_head(slice) ? at_head.head : found[next++]);
    if (student.config.tied_embeddings && holds_head(student.config, slice))
      gradients.back() = at_head.head + gradients.back();
  }
  return gradients;
}

}  // namespace

at::ScalarType compute_type(const at::Device& device) { return device.is_cpu() ? at::kFloat : at::kBFloat16; }

Trainer::Trainer(const Teacher& teacher, const StudentParameters& student, const LossOptions& loss,
                 int64_t windows_per_shard, int64_t side_by_side, const Context& context)
    : teacher_(teacher),
      student_(student),
      loss_(loss),
      windows_per_shard_(windows_per_shard),
      side_by_side_(side_by_side),
      context_(context) {}

int64_t Trainer::shards_of(const at::Tensor& batch) const {
  return (batch.size(0) + windows_per_shard_ - 1) / windows_per_shard_;
}

at::Tensor Trainer::shard_of(const at::Tensor& batch, int64_t index) const {
  const int64_t first = index * windows_per_shard_;
  return batch.narrow(0, first, std::min(windows_per_shard_, batch.size(0) - first)).to(student_.values.device());
}

Trainer::ShardResult Trainer::run_shard(const at::Tensor& windows, const at::Tensor& values, double scale,
                                        bool with_gradient) const {
  const int64_t length = windows.size(1) - 1;
  const at::Tensor ids = windows.narrow(1, 0, length), labels = windows.narrow(1, 1, length).flatten();
  const at::AutoGradMode grad_mode(with_gradient);
  const GraphLeaves graph = make_leaves(student_, values, with_gradient);
  const HeadInput teacher{teacher_states(teacher_, ids), teacher_.weights.top(Role::kHead)};
  const at::Tensor hidden = hidden_states(student_.config, graph.weights, ids);
  const HeadInput student{hidden.detach(), graph.weights.top(Role::kHead).detach()};
  HeadGradients at_head;
  ShardResult result;
  result.sums = head_loss(teacher, student, labels, loss_, scale, with_gradient ? &at_head : nullptr);
  if (with_gradient) result.gradients = backward(student_, graph, hidden, at_head);
  return result;
}

// Tensor by tensor in parallel; of one tensor, shard by shard.
void Trainer::add_gradients(const std::vector<ShardResult>& results, int64_t count, at::Tensor& gradient) const {
  run_shards(context_, static_cast<int64_t>(student_.slices.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    at::Tensor sum = view_of(gradient, student_.slices[static_cast<size_t>(i)]);
    for (int64_t shard = 0; shard < count; ++shard)
      sum.add_(results[static_cast<size_t>(shard)].gradients[static_cast<size_t>(i)]);
  });
}

LossSums Trainer::gradient(const at::Tensor& batch, at::Tensor& gradient) const {
  const double scale = 1.0 / static_cast<double>(batch.size(0) * (batch.size(1) - 1));
  const at::Tensor values = student_.values.to(compute_type(student_.values.device()));
  const int64_t shards = shards_of(batch);
  gradient.zero_();
  LossSums sums;
  for (int64_t first = 0; first < shards; first += side_by_side_) {
    const int64_t count = std::min(side_by_side_, shards - first);
    std::vector<ShardResult> results(static_cast<size_t>(count));
    run_shards(context_, count, [&](int64_t i) {
      results[static_cast<size_t>(i)] = run_shard(shard_of(batch, first + i), values, scale, true);
    });
    add_gradients(results, count, gradient);
    for (const ShardResult& result : results) sums += result.sums;
  }
  return sums;
}

LossSums Trainer::evaluate(const at::Tensor& batch, const at::Tensor& values) const {
  const at::Tensor weights = values.to(compute_type(values.device()));
  const int64_t shards = shards_of(batch);
  std::vector<LossSums> results(static_cast<size_t>(shards));
  for (int64_t first = 0; first < shards; first += side_by_side_)
    run_shards(context_, std::min(side_by_side_, shards - first), [&](int64_t i) {
      results[static_cast<size_t>(first + i)] = run_shard(shard_of(batch, first + i), weights, 0, false).sums;
    });
  LossSums sums;
  for (const LossSums& result : results) sums += result;
  return sums;
}

}  // namespace retort
