#include "export/tensors.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/files.h"

namespace retort {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 20;

// Calls body(first, count) for runs of rows of about kChunkElements elements.
template <typename Body>
void for_row_chunks(const ModelTensor& tensor, const Body& body) {
  const int64_t step = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, tensor.cols()));
  for (int64_t first = 0; first < tensor.rows(); first += step) body(first, std::min(step, tensor.rows() - first));
}

}  // namespace

void stream_dense(const ModelSource& source, const ModelTensor& tensor, DType type, const ByteSink& sink) {
  std::vector<std::byte> bytes;
  std::vector<float> values;
  for_row_chunks(tensor, [&](int64_t first, int64_t count) {
    const auto elements = static_cast<size_t>(count * tensor.cols());
    bytes.resize(elements * size_of(type));
    if (tensor.scheme.dense == type) {
      source.read_dense(tensor, first, count, bytes);
    } else {
      values.resize(elements);
      source.read_f32(tensor, first, count, values);
      encode_from_f32(type, values, bytes);
    }
    sink(bytes);
  });
}

std::vector<std::byte> read_dense(const ModelSource& source, const ModelTensor& tensor, DType type) {
  std::vector<std::byte> all;
  all.reserve(static_cast<size_t>(tensor.elements()) * size_of(type));
  stream_dense(source, tensor, type,
               [&](std::span<const std::byte> bytes) { all.insert(all.end(), bytes.begin(), bytes.end()); });
  return all;
}

void check_f16_range(const ModelSource& source, const ModelTensor& tensor) {
  if (tensor.scheme.dense == DType::kF16) return;
  constexpr float kFirstInfinite = 65520;
  std::vector<float> values;
  for_row_chunks(tensor, [&](int64_t first, int64_t count) {
    values.resize(static_cast<size_t>(count * tensor.cols()));
    source.read_f32(tensor, first, count, values);
    for (const float value : values)
      if (std::isfinite(value) && std::abs(value) >= kFirstInfinite)
        fail("export", tensor.name, "the value " + std::to_string(value) + " is too large for f16",
             "Use --type bf16 or f32");
  });
}

QuantizedMatrix regrouped(const QuantizedMatrix& m, const Scheme& scheme) {
  QuantizedMatrix out = make_quantized(scheme, m.rows, m.cols);
  const int64_t groups = out.groups(), size = scheme.group_size(m.cols);
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t from = m.group_of(g * size);
      out.scales[static_cast<size_t>(r * groups + g)] = m.scales[static_cast<size_t>(r * m.groups() + from)];
      if (!scheme.symmetric) out.zeros[static_cast<size_t>(r * groups + g)] = m.zero(r, from);
    }
    for (int64_t c = 0; c < m.cols; ++c) {
      const auto at = static_cast<size_t>(r * m.cols + c);
      const int shift = out.zero(r, c / size) - m.zero(r, m.group_of(c));
      out.codes[at] = static_cast<uint8_t>(m.codes[at] + shift);
    }
  }
  return out;
}

std::vector<std::string> fallback_notes(std::span<const PlannedTensor> plan) {
  std::vector<std::string> notes;
  for (const PlannedTensor& planned : plan)
    if (!planned.fallback.empty()) notes.push_back(planned.tensor->name + ": " + planned.fallback);
  return notes;
}

int64_t exact_context(const ModelConfig& c) {
  int64_t context = c.context_length;
  for (const int64_t window : c.windows)
    if (window > 0) context = std::min(context, window);
  return context;
}

Json plain_config(const ModelConfig& config) {
  Json json = config.json;
  json.erase("quantization_config");
  return json;
}

void write_side_files(const ModelSource& source, const std::filesystem::path& directory) {
  for (const SideFile& file : source.side_files()) write_text_file(directory / file.name, file.bytes);
}

}  // namespace retort
