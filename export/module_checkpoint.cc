#include "export/module_checkpoint.h"

#include <algorithm>
#include <map>

#include "core/base/counts.h"
#include "core/base/error.h"
#include "core/base/files.h"
#include "core/pack/parts.h"
#include "export/tensors.h"

namespace retort {
namespace {

constexpr int64_t kRows = 32;  // whose zero points fill whole words, whatever their width

}  // namespace

std::string module_name(const PlannedTensor& planned) {
  const std::string& name = planned.tensor->name;
  return name.substr(0, name.rfind('.'));
}

void require_quantized(const ModelSource& source) {
  if (std::ranges::none_of(source.tensors(), &ModelTensor::stores_integers))
    fail("export", source.path().string(), "it has no integer weights to keep",
         "Quantize it first, or use --format hf");
}

Scheme uniform_scheme(const ModelSource& source, std::optional<int> file_bits) {
  require_quantized(source);
  std::map<int, int64_t> elements;
  std::vector<Scheme> schemes;
  for (const ExpectedTensor& expected : expected_tensors(source.config())) {
    const ModelTensor& tensor = source.at(expected.name);
    if (tensor.scheme.is_dense() || !tensor.scheme.is_plain() || expected.rule->input == Input::kNone) continue;
    elements[tensor.scheme.bits] += tensor.elements();
    schemes.push_back(tensor.scheme);
  }
  constexpr int kAnyBits = 4;  // where no matrix has a place: each is refused by its name
  const int most = elements.empty() ? kAnyBits : largest_count(elements)->first;
  Scheme common{.bits = file_bits.value_or(most), .granularity = Granularity::kChannel, .group = 0, .dense = {}};
  for (const Scheme& scheme : schemes) {
    if (scheme.bits == most || scheme.bits == common.bits) common.symmetric = common.symmetric && scheme.symmetric;
    if (scheme.bits != most || scheme.granularity != Granularity::kGroup) continue;
    common.group = common.granularity == Granularity::kGroup ? std::min(common.group, scheme.group) : scheme.group;
    common.granularity = Granularity::kGroup;
  }
  return common;
}

std::string refuses_uniform(const PlannedTensor& planned, const QuantizedMatrix& m, const Scheme& uniform,
                            const PackedFormat& layout) {
  const auto number = [](int64_t value) { return std::to_string(value); };
  if (planned.rule->input == Input::kNone) return "only the linear weights of layers have a place in it";
  if (!m.scheme.is_plain()) return "it holds integers times one scale";
  if (m.scheme.bits > uniform.bits)
    return "it has " + number(m.scheme.bits) + " bits, and the one width of the file is " + number(uniform.bits);
  const int64_t from = m.scheme.group_size(m.cols), to = uniform.group_size(m.cols);
  const bool in_order = groups_in_order(m);
  if (!in_order && m.scheme.symmetric != uniform.symmetric)
    return "its groups in activation order would need other zero points";
  if (m.cols % to != 0 || from % to != 0 || (from != to && !in_order))
    return "its groups of " + number(from) + " are not whole groups of " + number(to) + ", the one size of the file";
  return layout.refuses(
      {.scheme = uniform, .rows = m.rows, .cols = m.cols, .codes = {}, .scales = {}, .zeros = {}, .column_group = {}});
}

QuantizedMatrix in_uniform(QuantizedMatrix matrix, const Scheme& uniform) {
  if (matrix.scheme == uniform) return matrix;
  const bool same_groups = matrix.scheme.group_size(matrix.cols) == uniform.group_size(matrix.cols);
  std::vector<int32_t> column_group = std::move(matrix.column_group);
  matrix.column_group.clear();
  QuantizedMatrix out = regrouped(matrix, uniform);
  if (same_groups) out.column_group = std::move(column_group);
  return out;
}

void ModuleCheckpoint::begin(const std::filesystem::path& path, std::span<const PlannedTensor> plan) {
  directory_ = path;
  weights_ = safetensors_writer(path, max_shard_bytes_);
  for (const PlannedTensor& planned : plan)
    if (planned.rule->input != Input::kNone && planned.rule->part == Part::kWeight)
      (planned.dense ? dense_modules_ : quantized_modules_).push_back(module_name(planned));
  notes_ = fallback_notes(plan);
}

void ModuleCheckpoint::write(const PlannedTensor& planned, ThreadPool& threads) {
  const ModelTensor& tensor = *planned.tensor;
  const auto append = [this](std::span<const std::byte> bytes) { weights_->append(bytes); };
  if (planned.dense) {
    wait_for_writing();
    weights_->begin(tensor.name, *planned.dense, tensor.shape);
    return stream_dense(source_, tensor, *planned.dense, append, threads);
  }
  const auto begin = [this, module = module_name(planned)](const PackedPart& part) {
    weights_->begin(module + "." + std::string(part.name), part.dtype, part.shape);
  };
  const auto begin_now = [&](const PackedPart& part) {
    wait_for_writing();
    stored(part);
    begin(part);
  };
  const auto joined = [&](std::vector<PackedPart> parts) {
    wait_for_writing();
    for (const PackedPart& part : parts) stored(part);
    write_behind({begin, append}, std::move(parts), threads);
  };
  stream_packed(source_, tensor,
                {.format = layout_,
                 .multiple = tensor.rows() % kRows == 0 ? kRows : tensor.rows(),
                 .row_axis = row_axis_,
                 .restate = [&](QuantizedMatrix rows) { return restated(std::move(rows)); }},
                {begin_now, append, joined}, threads);
}

void ModuleCheckpoint::write_behind(const PartSink& sink, std::vector<PackedPart> parts, const ThreadPool& threads) {
  if (threads.size() == 1) return sink.put(parts);
  writing_ = std::async(std::launch::async, [sink, parts = std::move(parts)] { sink.put(parts); });
}

void ModuleCheckpoint::wait_for_writing() {
  if (writing_.valid()) writing_.get();
}

void ModuleCheckpoint::finish() {
  wait_for_writing();
  weights_->finish();
  write_side_files(artifact_side_files(source_), directory_);
  Json config = artifact_config(source_, notes_);
  describe(config);
  write_text_file(directory_ / "config.json", config.dump(2) + "\n");
}

}  // namespace retort
