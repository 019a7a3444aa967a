// GGUF as llama.cpp loads it: metadata and vocabulary in front, then every tensor in ggml's blocks.
#include "core/checkpoint/gguf.h"

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/pack/held_as.h"
#include "core/pack/packed_format.h"
#include "export/formats.h"
#include "export/gguf_metadata.h"
#include "export/gguf_shards.h"
#include "export/provenance.h"
#include "export/tensors.h"

namespace retort {
namespace {

class GgufExporter : public ArtifactWriter {
 public:
  GgufExporter(const ModelSource& source, const ExportOptions& options)
      : source_(source),
        max_shard_bytes_(options.max_shard_bytes),
        id_(options.base_model.empty() ? model_id_of(source.config()) : options.base_model),
        header_(gguf_metadata(source, id_)) {}

  std::string refuses(const PlannedTensor&, const QuantizedMatrix& matrix) const override {
    return gguf_refuses(matrix);
  }

  void begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) override {
    const auto factors = gguf_rope_factors(source_.config());
    for (const auto& [name, values] : factors) add_tensor(name, "f32", {static_cast<int64_t>(values.size())});
    for (const PlannedTensor& planned : plan)
      add_tensor(gguf_name(*planned.rule, planned.layer), stored_type(planned), planned.tensor->shape);
    const GgufLayerTypes types = layer_types(plan);
    add_gguf_file_type(header_, types, fallback_notes(plan));
    writer_ = std::make_unique<GgufShards>(path, gguf_model_name(source_, id_, types), header_, max_shard_bytes_);
    for (const auto& [name, values] : factors) writer_->append(std::as_bytes(std::span(values)));
  }

  void write(const PlannedTensor& planned, ThreadPool& threads) override {
    const ModelTensor& tensor = *planned.tensor;
    if (!planned.dense) return write_blocks(planned, threads);
    const auto append = [&](std::span<const std::byte> bytes) { writer_->append(bytes); };
    const int64_t head_dim = source_.config().head_dim;
    const std::vector<int64_t> order =
        is_permuted(planned) ? interleaved_order(head_dim, head_dim) : std::vector<int64_t>{};
    stream_dense(source_, tensor, *planned.dense, append, threads, order);
  }

  void finish() override { writer_->finish(); }

  std::vector<std::string> unsaid() const override { return gguf_unsaid(source_); }

 private:
  void add_tensor(std::string name, std::string_view type_name, std::vector<int64_t> shape) {
    const GgmlType& type = *find_ggml_type(type_name);
    const int64_t elements = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    const auto bytes = static_cast<uint64_t>(elements / type.block_elements * type.block_bytes);
    header_.tensors.push_back({std::move(name), type.number, std::move(shape), 0, bytes});
  }

  static std::string stored_type(const PlannedTensor& planned) {
    return planned.dense ? std::string(name_of(*planned.dense)) : name_of(gguf_block(planned.tensor->scheme));
  }

  static GgufLayerTypes layer_types(std::span<const PlannedTensor> plan) {
    GgufLayerTypes elements;
    for (const PlannedTensor& planned : plan)
      if (planned.layer >= 0 && planned.tensor->shape.size() == 2)
        elements[stored_type(planned)] += planned.tensor->elements();
    return elements;
  }

  bool is_permuted(const PlannedTensor& planned) const {
    const Role role = planned.rule->role;
    return source_.config().family->gguf_interleaved_rope && (role == Role::kQuery || role == Role::kKey);
  }

  void write_blocks(const PlannedTensor& planned, ThreadPool& threads) {
    const Scheme& scheme = planned.tensor->scheme;
    const PackedFormat& format = packed_format(name_of(gguf_block(scheme)));
    const int64_t head_dim = source_.config().head_dim;
    const bool permuted = is_permuted(planned);
    const auto restate = [&](QuantizedMatrix rows) {
      if (scheme.has_zeros()) rows = regrouped(rows, gguf_centred(scheme));
      if (permuted) rows = permute_rows(rows, interleaved_order(rows.rows, head_dim));  // whole heads
      return rows;
    };
    stream_packed(source_, *planned.tensor,
                  {.format = format, .multiple = permuted ? head_dim : 1, .row_axis = 0, .restate = restate},
                  {[](const PackedPart&) {}, [&](std::span<const std::byte> bytes) { writer_->append(bytes); }},
                  threads);
  }

  const ModelSource& source_;
  const uint64_t max_shard_bytes_;
  const std::string id_;
  GgufHeader header_;
  std::unique_ptr<GgufShards> writer_;
};

}  // namespace

std::unique_ptr<ArtifactWriter> make_gguf_writer(const ModelSource& source, const ExportOptions& options) {
  return std::make_unique<GgufExporter>(source, options);
}

}  // namespace retort
