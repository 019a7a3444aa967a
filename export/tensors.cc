#include "export/tensors.h"

#include <algorithm>
#include <cmath>
#include <regex>

#include "core/base/error.h"
#include "core/base/in_order.h"
#include "core/base/memory.h"
#include "core/base/text.h"
#include "export/provenance.h"
#include "export/rope_settings.h"

namespace retort {
namespace {

// Small enough that all that is made of a run stays in a core's own cache.
constexpr int64_t kRunElements = int64_t{1} << 18;

// Whole multiples of `multiple`, of which one may be larger than a run should be.
int64_t rows_in_run(const ModelTensor& tensor, int64_t multiple = 1) {
  return std::max<int64_t>(1, kRunElements / std::max<int64_t>(1, tensor.cols()) / multiple) * multiple;
}

// Of each element. In a run: codes and what is packed, or integers, float32 and what they become; that again for each
// run that waits to be stored; and twice all, for what an allocator keeps of freed memory. Of a matrix: parts that are
// joined, or all codes where zero points are looked at.
constexpr uint64_t kPackedBytes = 2 * (4 + 3 * kReadyRuns), kDenseBytes = 2 * (12 + 4 * kReadyRuns), kWholeBytes = 2;
constexpr int64_t kRowsPacked = 32;  // rows that fill whole elements of every layout
// Where runs are pieces of lines that are joined: of fewer rows the pieces cost more to place than to pack. None of
// these runs waits to be stored, so that twice kRowsPacked take no more memory.
constexpr int64_t kRowsJoined = 64;

}  // namespace

uint64_t streaming_bytes(const ModelTensor& tensor, bool as_integers, const ThreadPool& threads) {
  const bool whole = as_integers && tensor.rows() % kRowsPacked != 0;  // some layouts then take it in one run
  const int64_t rows = whole ? tensor.rows() : rows_in_run(tensor, as_integers ? kRowsPacked : 1);
  const int64_t step = std::min(rows, tensor.rows());
  const int64_t runs = std::min<int64_t>(threads.size(), (tensor.rows() + step - 1) / step);
  const auto of_runs = static_cast<uint64_t>(runs * step * tensor.cols()) * (as_integers ? kPackedBytes : kDenseBytes);
  return of_runs + (as_integers ? static_cast<uint64_t>(tensor.elements()) * kWholeBytes : 0);
}

namespace {

std::vector<std::byte> read_rows(const ModelSource& source, const ModelTensor& tensor, DType type, int64_t first,
                                 int64_t count) {
  const auto elements = static_cast<size_t>(count * tensor.cols());
  std::vector<std::byte> bytes(elements * size_of(type));
  if (tensor.scheme.dense == type) {
    source.read_dense(tensor, first, count, bytes);
    return bytes;
  }
  std::vector<float> values(elements);
  source.read_f32(tensor, first, count, values);
  encode_from_f32(type, values, bytes);
  return bytes;
}

// Each block of order.size() rows in that order.
std::vector<std::byte> reordered(const std::vector<std::byte>& rows, size_t row_bytes, std::span<const int64_t> order) {
  std::vector<std::byte> out;
  out.reserve(rows.size());
  for (size_t block = 0; block < rows.size(); block += order.size() * row_bytes)
    for (const int64_t row : order) {
      const auto from = rows.begin() + static_cast<ptrdiff_t>(block + static_cast<size_t>(row) * row_bytes);
      out.insert(out.end(), from, from + static_cast<ptrdiff_t>(row_bytes));
    }
  return out;
}

}  // namespace

void stream_dense(const ModelSource& source, const ModelTensor& tensor, DType type, const ByteSink& sink,
                  ThreadPool& threads, std::span<const int64_t> order) {
  const auto block = std::max<int64_t>(1, static_cast<int64_t>(order.size()));
  const int64_t step = rows_in_run(tensor, block);
  const auto make = [&](int64_t first, int64_t count) {
    std::vector<std::byte> rows = read_rows(source, tensor, type, first, count);
    return order.empty() ? rows : reordered(rows, rows.size() / static_cast<size_t>(count), order);
  };
  in_order(tensor.rows(), step, threads, make, sink);
}

void stream_packed(const ModelSource& source, const ModelTensor& tensor, const PackedRuns& runs, const PartSink& sink,
                   ThreadPool& threads) {
  const auto make = [&](int64_t first, int64_t count) {
    QuantizedMatrix rows = source.read_quantized_rows(tensor, first, count);
    return runs.restate ? runs.restate(std::move(rows)) : rows;
  };
  const int64_t multiple = runs.row_axis == 0 ? runs.multiple : std::max(runs.multiple, kRowsJoined);
  const int64_t step = rows_in_run(tensor, multiple);
  pack_runs({tensor.rows(), tensor.cols(), step, make}, runs.format, runs.row_axis, sink, threads);
}

void check_f16_range(const ModelSource& source, const ModelTensor& tensor, const std::string& remedy,
                     ThreadPool& threads) {
  if (tensor.scheme.dense == DType::kF16) return;
  constexpr float kFirstInfinite = 65520;
  const auto largest = [&](int64_t first, int64_t count) {
    std::vector<float> values(static_cast<size_t>(count * tensor.cols()));
    source.read_f32(tensor, first, count, values);
    float most = 0;
    for (const float value : values) most = std::isfinite(value) && std::abs(value) > std::abs(most) ? value : most;
    return most;
  };
  in_order(tensor.rows(), rows_in_run(tensor), threads, largest, [&](float value) {
    if (std::abs(value) >= kFirstInfinite)
      fail("export", tensor.name, "the value " + std::to_string(value) + " is too large for f16", remedy);
  });
}

QuantizedMatrix regrouped(const QuantizedMatrix& m, const Scheme& scheme) {
  QuantizedMatrix out = make_quantized(scheme, m.rows, m.cols);
  const int64_t groups = out.groups(), size = scheme.group_size(m.cols);
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t from = m.group_of(g * size);  // of all columns of the group
      out.scales[static_cast<size_t>(r * groups + g)] = m.scales[static_cast<size_t>(r * m.groups() + from)];
      if (!scheme.symmetric) out.zeros[static_cast<size_t>(r * groups + g)] = m.zero(r, from);
      const auto shift = static_cast<uint8_t>(out.zero(r, g) - m.zero(r, from));
      const uint8_t* codes = m.codes.data() + r * m.cols + g * size;
      std::transform(codes, codes + size, out.codes.data() + r * m.cols + g * size,
                     [shift](uint8_t code) { return static_cast<uint8_t>(code + shift); });
    }
  }
  return out;
}

void check_memory_limit(std::string_view operation, const ModelSource& source, uint64_t needed,
                        const Context& context) {
  const uint64_t all = resident_bytes() + needed;
  if (context.memory_limit == 0 || all <= context.memory_limit) return;
  const uint64_t mebibytes = (all >> 20) + 4;  // what a process has when it starts varies a little
  fail(operation, source.path().string(),
       "it takes " + format_bytes(all) + " of memory, above the limit of " + format_bytes(context.memory_limit),
       "Give --memory " + std::to_string(mebibytes) + "MiB");
}

std::unique_ptr<SafetensorsWriter> safetensors_writer(const std::filesystem::path& path, uint64_t max_shard_bytes) {
  return std::make_unique<SafetensorsWriter>(path, max_shard_bytes == 0 ? kShardBytes : max_shard_bytes);
}

std::string_view torch_name(DType type) {
  return type == DType::kF32 ? "float32" : type == DType::kF16 ? "float16" : "bfloat16";
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

namespace {

// transformers writes where it found a tokenizer: the name of a repository, or a path of that machine.
bool is_local_place(const std::string& key, const Json& value) {
  if (!value.is_string()) return false;
  const auto text = value.get<std::string>();
  if (key == "name_or_path" || key == "_name_or_path") return !text.empty() && !is_repository(text);
  return key.ends_with("_file") && text.find_first_of("/\\") != std::string::npos;
}

std::string without_local_places(const std::string& bytes, const std::string& label) {
  const Json json = parse_json(bytes, label);
  if (!json.is_object()) return bytes;
  Json kept = Json::object();
  for (const auto& [key, value] : json.items())
    if (!is_local_place(key, value)) kept[key] = value;
  if (kept.size() == json.size()) return bytes;
  // Cut out where that can be done: numbers such as 1000000000000000019884624838656 stay as they are written.
  static const std::regex kMember(R"re(\s*"(_?name_or_path|\w+_file)"\s*:\s*"([^"\\]|\\.)*"\s*,)re");
  const std::string cut = std::regex_replace(bytes, kMember, "");
  return Json::accept(cut) && Json::parse(cut) == kept ? cut : kept.dump(2) + "\n";
}

}  // namespace

std::vector<SideFile> artifact_side_files(const ModelSource& source) {
  std::vector<SideFile> files(source.side_files().begin(), source.side_files().end());
  for (SideFile& file : files)
    if (file.name == "tokenizer_config.json")
      file.bytes = without_local_places(file.bytes, (source.path() / file.name).string());
  return files;
}

Json artifact_config(const ModelSource& source, const std::vector<std::string>& fallbacks) {
  Json json = source.config().json, self = Json::object();
  json.erase("quantization_config");
  json.erase("quantization");
  if (base_model_of(source.config()).empty()) json.erase("_name_or_path");
  if (source.config().rope.scaling == RopeScaling::kFactors) json["rope_parameters"] = llama3_settings(source.config());
  for (const auto& [name, text] : provenance_of(source).entries()) self[name] = text;
  if (!fallbacks.empty()) self["fallbacks"] = fallbacks;
  json["retort"] = self;
  return json;
}

}  // namespace retort
