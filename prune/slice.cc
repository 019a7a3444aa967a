#include "prune/slice.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

namespace retort {
namespace {

std::vector<int64_t> everything(int64_t count) {
  std::vector<int64_t> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// Rows and columns that stay of a row-major matrix of `cols` columns of `width` bytes.
std::vector<std::byte> gather(std::span<const std::byte> bytes, int64_t cols, size_t width,
                              const std::vector<int64_t>& rows, const std::vector<int64_t>& columns) {
  std::vector<std::byte> kept(rows.size() * columns.size() * width);
  std::byte* out = kept.data();
  for (const int64_t row : rows)
    for (const int64_t column : columns) {
      std::memcpy(out, &bytes[static_cast<size_t>(row * cols + column) * width], width);
      out += width;
    }
  return kept;
}

void write_tensor(const ModelSource& source, const ModelTensor& tensor, const TensorRule& rule, int64_t new_layer,
                  const Kept& kept, ModelWriter& writer) {
  const bool narrow = new_layer >= 0 && !kept.channels.empty();
  const auto stay = [&](Dim dim, int64_t count) {
    return narrow && dim == Dim::kFfn ? kept.channels[static_cast<size_t>(new_layer)] : everything(count);
  };
  const auto rows = stay(rule.rows, tensor.rows()), columns = stay(rule.cols, tensor.cols());
  const DType type = tensor.scheme.dense.value();
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.elements()) * size_of(type));
  source.read_dense(tensor, 0, tensor.rows(), bytes);
  std::vector<int64_t> shape{static_cast<int64_t>(rows.size())};
  if (tensor.shape.size() == 2) shape.push_back(static_cast<int64_t>(columns.size()));
  writer.add_dense(hf_name(rule, new_layer), type, shape, gather(bytes, tensor.cols(), size_of(type), rows, columns));
}

}  // namespace

Json pruned_config(const ModelConfig& config, const Kept& kept) {
  Json json = config_with_layers(config, kept.layers);
  if (!kept.channels.empty()) json["intermediate_size"] = kept.channels.front().size();
  return json;
}

void write_kept(const ModelSource& source, const Kept& kept, ModelWriter& writer) {
  for (const ModelTensor& tensor : source.tensors()) {
    const auto match = match_tensor(source.config(), tensor.name);
    if (!match) continue;  // not part of the model: listed among the source's problems
    const auto place = std::ranges::find(kept.layers, match->layer);
    if (match->layer >= 0 && place == kept.layers.end()) continue;
    write_tensor(source, tensor, *match->rule, match->layer < 0 ? -1 : place - kept.layers.begin(), kept, writer);
  }
}

}  // namespace retort
