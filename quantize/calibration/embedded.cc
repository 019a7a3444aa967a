#include "quantize/calibration/embedded.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/arch/family.h"

namespace retort {
namespace {

constexpr int64_t kShardTokens = 1024;

at::Tensor embedded(const ModelSource& source, const at::Tensor& ids) {
  const int64_t size = source.config().hidden_size;
  const ModelTensor& table = source.at(tensor_name(source.config(), Role::kEmbedding));
  const at::Tensor hidden = at::empty({ids.size(0), ids.size(1), size}, at::kFloat);
  float* row = hidden.mutable_data_ptr<float>();
  const at::Tensor flat = ids.flatten();
  for (const int64_t token : std::span(flat.const_data_ptr<int64_t>(), static_cast<size_t>(flat.numel()))) {
    source.read_f32(table, token, 1, {row, static_cast<size_t>(size)});
    row += size;
  }
  return hidden;
}

}  // namespace

std::vector<at::Tensor> embedded_shards(const ModelSource& source, const at::Tensor& windows) {
  std::vector<at::Tensor> shards;
  for (const at::Tensor& ids : windows.split(std::max<int64_t>(1, kShardTokens / windows.size(1))))
    shards.push_back(embedded(source, ids));
  return shards;
}

}  // namespace retort
