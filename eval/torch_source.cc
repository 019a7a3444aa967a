#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "eval/logits_source.h"
#include "model/decoder.h"
#include "model/shards.h"

namespace retort {
namespace {

class TorchWindow : public WindowLogits {
 public:
  TorchWindow(const RoleTensors& top, at::Tensor normed) : top_(top), normed_(std::move(normed)) {}

  void next(int64_t rows, std::span<float> out) override {
    prepare_torch();
    const at::NoGradGuard no_grad;
    const at::Tensor logits = head_logits(top_, normed_.narrow(0, row_, rows)).cpu();
    std::copy_n(logits.const_data_ptr<float>(), logits.numel(), out.begin());
    row_ += rows;
  }

 private:
  const RoleTensors& top_;
  at::Tensor normed_;  // [rows, hidden]
  int64_t row_ = 0;
};

class TorchSource : public LogitsSource {
 public:
  TorchSource(const ModelSource& source, const at::Device& device)
      : config_(source.config()), device_(device), weights_(load_weights(source, {at::kFloat, device})) {}
  int64_t vocab_size() const override { return config_.vocab_size; }
  bool concurrent() const override { return device_.is_cpu(); }
  std::string_view backend() const override { return "torch"; }

  std::unique_ptr<WindowLogits> start(std::span<const int32_t> window, int64_t first_row) override {
    prepare_torch();
    const at::NoGradGuard no_grad;
    at::Tensor ids = at::empty({1, static_cast<int64_t>(window.size())}, at::kLong);
    std::copy(window.begin(), window.end(), ids.mutable_data_ptr<int64_t>());
    const at::Tensor hidden = forward_hidden(config_, weights_, ids.to(device_));
    const at::Tensor rows = hidden[0].slice(0, first_row);
    return std::make_unique<TorchWindow>(weights_.top, final_norm(config_, weights_.top, rows));
  }

 private:
  ModelConfig config_;
  at::Device device_;
  DecoderWeights weights_;
};

}  // namespace

std::unique_ptr<LogitsSource> torch_source(const ModelSource& source, Context& context) {
  return std::make_unique<TorchSource>(source, parse_device(context.device));
}

}  // namespace retort
