#include "model/attention.h"

#include <ATen/ATen.h>

#include "model/paired_attention.h"
#include "model/single_pass.h"

namespace retort {
namespace {

// True where query t (position positions - tokens + t) may look at position j.
at::Tensor visible(int64_t tokens, int64_t positions, int64_t window, const at::Device& device) {
  const auto ids = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor query = at::arange(positions - tokens, positions, ids).unsqueeze(1);
  const at::Tensor key = at::arange(positions, ids).unsqueeze(0);
  const at::Tensor causal = key <= query;
  return window == 0 ? causal : causal & (key > query - window);
}

}  // namespace

at::Tensor rotate(const ModelConfig& config, const at::Tensor& states, int64_t position) {
  std::vector<float> frequencies = rope_frequencies(config, position + states.size(2));
  const at::Tensor frequency =
      at::from_blob(frequencies.data(), {static_cast<int64_t>(frequencies.size())}, at::kFloat).to(states.device());
  const at::Tensor positions = at::arange(position, position + states.size(2), frequency.options());
  const at::Tensor angles = at::outer(positions, frequency);
  const double scale = config.rope.attention_factor;
  const at::Tensor cosine = (angles.cos() * scale).to(states.scalar_type());
  const at::Tensor sine = (angles.sin() * scale).to(states.scalar_type());
  if (in_single_pass(states)) return rotate_in_single_pass(states, cosine, sine);
  const at::Tensor low = states.narrow(-1, 0, config.head_dim / 2);
  const at::Tensor high = states.narrow(-1, config.head_dim / 2, config.head_dim / 2);
  return at::cat({low * cosine - high * sine, high * cosine + low * sine}, -1);
}

at::Tensor attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values, int64_t window) {
  if (attends_in_pairs(queries, keys)) return attend_in_pairs(queries, keys, values, window);
  const int64_t tokens = queries.size(2), positions = keys.size(2);
  const bool all_in_window = window == 0 || positions <= window;
  const bool grouped = queries.size(1) != keys.size(1);
  // The cases without a mask keep Torch's faster paths.
  const bool square = all_in_window && tokens == positions;
  std::optional<at::Tensor> mask;
  if (!square && !(all_in_window && tokens == 1)) mask = visible(tokens, positions, window, queries.device());
  return at::scaled_dot_product_attention(queries, keys, values, mask, 0.0, square, std::nullopt, grouped);
}

}  // namespace retort
