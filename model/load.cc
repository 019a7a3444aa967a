// From a ModelSource to tensors by role, one checkpoint tensor in float32 at a time.
#include <ATen/ATen.h>

#include "model/decoder.h"
#include "model/shards.h"

namespace retort {
namespace {

at::Tensor load_tensor(const ModelSource& source, const std::string& name, const Placement& placement) {
  const ModelTensor& info = source.at(name);
  at::Tensor tensor = at::empty(info.shape, at::kFloat);
  const std::span<float> values(tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel()));
  source.read_f32(info, 0, info.rows(), values);
  return tensor.to(placement.device, placement.type);
}

// layer -1: the tensors that no layer has.
RoleTensors load_roles(const ModelSource& source, int64_t layer, const Placement& placement, ThreadPool* threads) {
  const ModelConfig& config = source.config();
  std::vector<const TensorRule*> rules;
  for (const TensorRule& rule : config.family->tensors)
    if (is_per_layer(rule.role) == (layer >= 0) && rule.present(config)) rules.push_back(&rule);
  RoleTensors tensors;
  const auto load = [&](int64_t i) {
    prepare_torch();
    const TensorRule& rule = *rules[static_cast<size_t>(i)];
    tensors(rule.role, rule.part) = load_tensor(source, hf_name(rule, layer), placement);
  };
  const auto count = static_cast<int64_t>(rules.size());
  if (threads) threads->run(count, load);
  for (int64_t i = 0; !threads && i < count; ++i) load(i);
  return tensors;
}

}  // namespace

RoleTensors load_layer(const ModelSource& source, int64_t layer, const Placement& placement, ThreadPool* threads) {
  return load_roles(source, layer, placement, threads);
}

RoleTensors load_top(const ModelSource& source, const Placement& placement) {
  RoleTensors top = load_roles(source, -1, placement, nullptr);
  if (!top(Role::kHead).defined()) top(Role::kHead) = top(Role::kEmbedding);
  return top;
}

DecoderWeights load_weights(const ModelSource& source, const Placement& placement) {
  DecoderWeights weights{load_top(source, placement), {}};
  for (int64_t layer = 0; layer < source.config().layers; ++layer)
    weights.layers.push_back(load_layer(source, layer, placement));
  return weights;
}

}  // namespace retort
