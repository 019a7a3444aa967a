#include "model/calibration.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "core/base/error.h"
#include "core/base/files.h"

namespace retort {
namespace {

int64_t window_length(const ModelConfig& config, int64_t asked, std::string_view operation) {
  if (asked < 0 || asked > config.context_length)
    fail_usage(
        operation, "--sequence-length",
        std::to_string(asked) + " is not within the model's context of " + std::to_string(config.context_length));
  return asked > 0 ? asked : std::min<int64_t>(512, config.context_length);
}

}  // namespace

at::Tensor calibration_windows(const ModelSource& source, const std::string& path, int64_t samples, int64_t length,
                               std::string_view operation) {
  if (samples < 1) fail_usage(operation, "--samples", "at least one is needed");
  length = window_length(source.config(), length, operation);
  const std::vector<int32_t> ids = source.tokenizer()->encode(read_corpus(path));
  const int64_t available = static_cast<int64_t>(ids.size()) / length, windows = std::min(samples, available);
  if (windows == 0)
    fail(operation, path,
         "it has " + std::to_string(ids.size()) + " tokens, less than one window of " + std::to_string(length),
         "Give a longer text or a shorter --sequence-length");
  const auto highest = std::ranges::max_element(ids);
  if (*highest >= source.config().vocab_size)
    fail(operation, source.path().string(),
         "its tokenizer gives the id " + std::to_string(*highest) + ", above the vocabulary of the model");
  at::Tensor result = at::empty({windows, length}, at::kLong);
  int64_t* out = result.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < windows; ++i) out = std::copy_n(ids.begin() + i * available / windows * length, length, out);
  return result;
}

}  // namespace retort
