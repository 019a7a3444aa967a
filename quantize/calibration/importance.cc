#include "quantize/calibration/importance.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>
#include <cmath>
#include <vector>

#include "model/calibration.h"
#include "model/decoder.h"
#include "model/shards.h"
#include "quantize/calibration/embedded.h"

namespace retort {
namespace {

using Squares = std::array<at::Tensor, 5>;  // by Input: sums over the tokens [features], float64

// Takes the shards `hidden` through a layer; the sums of squares of the inputs of its matrices.
Squares pass_layer(const ModelConfig& config, int64_t layer, const RoleTensors& weights,
                   std::vector<at::Tensor>& hidden, const Context& context) {
  std::vector<Squares> sums(hidden.size());
  run_shards(context, static_cast<int64_t>(hidden.size()), [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const auto shard = static_cast<size_t>(i);
    hidden[shard] =
        layer_forward(config, layer, weights, hidden[shard], nullptr, [&](Input input, const at::Tensor& states) {
          sums[shard][static_cast<size_t>(input)] = states.square().flatten(0, -2).sum(0, false, at::kDouble).cpu();
        });
  });
  Squares total = sums.front();
  for (size_t shard = 1; shard < sums.size(); ++shard)
    for (size_t input = 1; input < total.size(); ++input) total[input] += sums[shard][input];
  return total;
}

void add_entries(const ModelConfig& config, int64_t layer, const Squares& squares, double tokens,
                 ImportanceMatrix& matrix) {
  for (const TensorRule& rule : config.family->tensors) {
    if (rule.input == Input::kNone || !rule.present(config)) continue;
    const at::Tensor sums = squares[static_cast<size_t>(rule.input)].to(at::kFloat);
    if (!at::isfinite(sums).all().item<bool>()) continue;
    const float* values = sums.const_data_ptr<float>();
    matrix.entries[gguf_name(rule, layer)] = {{values, values + sums.numel()}, tokens};
  }
}

}  // namespace

ImportanceMatrix measure_importance(const ModelSource& source, const QuantizeOptions& options, Context& context) {
  prepare_torch();
  const ModelConfig& config = source.config();
  const at::Tensor windows =
      calibration_windows(source, options.calibration, options.samples, options.sequence_length, "quantize");
  const Placement placement{.device = parse_device(context.device)};
  std::vector<at::Tensor> hidden = embedded_shards(source, windows);
  for (at::Tensor& shard : hidden) shard = shard.to(placement.device);
  ImportanceMatrix matrix{.entries = {},
                          .texts = {std::filesystem::path(options.calibration).filename().string()},
                          .windows = windows.size(0),
                          .window_tokens = windows.size(1)};
  context.progress.begin("calibrate", config.layers, "layers");
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    context.check_interrupted();
    const Squares squares = pass_layer(config, layer, load_layer(source, layer, placement), hidden, context);
    add_entries(config, layer, squares, static_cast<double>(windows.numel()), matrix);
    context.progress.update(layer + 1);
  }
  context.progress.end();
  return matrix;
}

}  // namespace retort
