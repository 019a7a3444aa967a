#include "export/exporter.h"

#include <algorithm>
#include <array>

#include "core/arch/family.h"
#include "core/base/error.h"
#include "core/base/text.h"
#include "core/pack/packed_format.h"
#include "core/tokenizer/tokenizer_files.h"
#include "export/formats.h"
#include "export/json_tokenizer.h"
#include "export/rope_settings.h"
#include "export/tensors.h"

namespace retort {
namespace {

constexpr std::array kFormats{
    ExportFormat{
        .name = "gguf", .integers = true, .takes_type = true, .vectors_in_f32 = true, .make = make_gguf_writer},
    ExportFormat{.name = "onnx",
                 .directory = true,
                 .integers = true,
                 .takes_type = true,
                 .vectors_in_f32 = true,
                 .windows = true,
                 .json_tokenizer = true,
                 .make = make_onnx_writer},
    ExportFormat{.name = "gptq",
                 .directory = true,
                 .integers = true,
                 .writes_behind = true,
                 .windows = true,
                 .make = make_gptq_writer},
    ExportFormat{.name = "hf", .directory = true, .takes_type = true, .windows = true, .make = make_hf_writer},
    ExportFormat{.name = "awq",
                 .directory = true,
                 .integers = true,
                 .writes_behind = true,
                 .windows = true,
                 .make = make_awq_writer},
    ExportFormat{.name = "compressed-tensors",
                 .directory = true,
                 .integers = true,
                 .writes_behind = true,
                 .windows = true,
                 .make = make_compressed_tensors_writer},
    ExportFormat{.name = "mlx", .directory = true, .integers = true, .writes_behind = true, .make = make_mlx_writer},
};

// What refuses() gets to see.
QuantizedMatrix probe(const ModelSource& source, const ModelTensor& tensor) {
  if (tensor.scheme.has_zeros()) return source.read_quantized(tensor);
  QuantizedMatrix matrix = source.read_quantized_rows(tensor, 0, 1);
  matrix.rows = tensor.rows();
  return matrix;
}

// As ArtifactWriter::refuses, for a tensor that is stored as integers. No format of other programs has columns in 16
// bits beside them.
std::string reason_against(std::string_view format, const ModelSource& source, const ArtifactWriter& writer,
                           const PlannedTensor& planned) {
  if (!planned.tensor->integers_lost.empty()) return planned.tensor->integers_lost;
  const QuantizedMatrix matrix = probe(source, *planned.tensor);
  const std::string reason = refuses_outliers(matrix, format);
  return reason.empty() ? writer.refuses(planned, matrix) : reason;
}

// What a GGUF file says in its own way, a directory says in files and in keys that transformers knows.
void check_side_files(const ModelSource& source, const std::string& format) {
  constexpr const char* kRemedy = "Use --format gguf, or export the directory that the GGUF file came from";
  if (source.container() == "gguf")
    if (const std::string refusal = refuses_tokenizer_files(source.tokenizer()->vocabulary()); !refusal.empty())
      fail("export", source.path().string(),
           "its tokenizer cannot be written as the files that " + format + " needs: " + refusal, kRemedy);
  if (source.config().rope.scaling == RopeScaling::kFactors && llama3_settings(source.config()).is_null())
    fail("export", source.path().string(), "it has factors of its rotary frequencies, which config.json cannot say",
         kRemedy);
}

// Whether the format takes the model as it is: all of its integers, or their values where it has no integers.
bool holds_all(const ModelSource& source, const ExportFormat& format) {
  const auto holds = [&](const ArtifactWriter& writer, const ExpectedTensor& expected) {
    const ModelTensor& tensor = source.at(expected.name);
    if (!tensor.stores_integers()) return true;
    return reason_against(format.name, source, writer, {&tensor, expected.rule, expected.layer, {}, {}}).empty();
  };
  try {
    const std::string name(format.name);
    if (format.directory) check_side_files(source, name);
    const auto writer = format.make(source, {.format = name, .type = {}});
    return !format.integers ||
           std::ranges::all_of(expected_tensors(source.config()),
                               [&](const ExpectedTensor& expected) { return holds(*writer, expected); });
  } catch (const Error&) {
    return false;  // it refuses the whole model
  }
}

// "--format NAME, or ", of the first format that takes the whole model; empty: none does.
std::string nearest_that_holds(const ModelSource& source) {
  for (const bool integers : {true, false})
    for (const ExportFormat& format : kFormats)
      if (format.integers == integers && holds_all(source, format))
        return "--format " + std::string(format.name) + ", or ";
  return {};
}

void plan_quantized(const ModelSource& source, const ExportOptions& options, const ArtifactWriter& writer,
                    PlannedTensor& planned) {
  planned.fallback = reason_against(options.format, source, writer, planned);
  if (planned.fallback.empty()) return;
  if (!options.fallback)
    fail("export", planned.tensor->name, options.format + " cannot hold it exactly: " + planned.fallback,
         "Use " + nearest_that_holds(source) + "--fallback f32, which is exact, or f16");
  planned.dense = options.fallback;
}

// Decides for every tensor, and reads what must be known of it, before anything is written.
std::vector<PlannedTensor> plan_export(const ModelSource& source, const ExportOptions& options,
                                       const ExportFormat& format, const ArtifactWriter& writer, Context& context) {
  std::vector<PlannedTensor> plan;
  for (const ExpectedTensor& expected : expected_tensors(source.config())) {
    context.check_interrupted();
    const ModelTensor& tensor = source.at(expected.name);
    PlannedTensor planned{
        &tensor, expected.rule, expected.layer, options.type ? options.type : tensor.scheme.dense, {}};
    if (!planned.dense && !format.integers) planned.dense = DType::kF32;
    if (tensor.stores_integers() && format.integers && !options.type) plan_quantized(source, options, writer, planned);
    if (format.vectors_in_f32 && tensor.shape.size() == 1) planned.dense = DType::kF32;
    if (planned.dense == DType::kF16)
      check_f16_range(source, tensor, options.type ? "Use --type bf16 or f32" : "Use --fallback f32", context.threads);
    plan.push_back(std::move(planned));
  }
  if (!format.takes_type &&
      std::ranges::all_of(plan, [](const PlannedTensor& planned) { return planned.dense.has_value(); }))
    fail("export", source.path().string(), "none of its integers has a place in " + options.format, "Use --format hf");
  return plan;
}

// What is in memory while a tensor is written.
uint64_t bytes_held(const ModelSource& source, const ModelTensor& tensor, const ExportFormat& format, bool as_integers,
                    const ThreadPool& threads) {
  uint64_t bytes = streaming_bytes(tensor, as_integers, threads);
  // The joined parts of the matrix before.
  if (as_integers && format.writes_behind && threads.size() > 1) bytes += static_cast<uint64_t>(tensor.elements());
  // Lines of these hold pieces of all rows: whoever reads some has the pages of the whole matrix.
  const bool across = source.container() == "gptq" || source.container() == "awq";
  return across && !tensor.scheme.is_dense() ? bytes + tensor.bytes : bytes;
}

// Beside one tensor there are the pages of the checkpoint that were read, the buffers of the files and the tokenizer.
void check_memory(const ModelSource& source, const ExportOptions& options, const ExportFormat& format,
                  const Context& context) {
  constexpr uint64_t kPages = uint64_t{16} << 20, kBuffers = uint64_t{20} << 20, kTokenizerBytes = 24;
  uint64_t largest = 0, side = 0;
  for (const ModelTensor& tensor : source.tensors())
    for (const bool as_integers : {false, !tensor.scheme.is_dense() && !options.type && format.integers})
      largest = std::max(largest, bytes_held(source, tensor, format, as_integers, context.threads));
  for (const SideFile& file : source.side_files()) side += file.bytes.size();
  check_memory_limit("export", source, kPages + kBuffers + side * kTokenizerBytes + largest, context);
}

void add_json_tokenizer(const ModelSource& source, const std::filesystem::path& output, ExportSummary& summary) {
  const JsonTokenizer made = json_tokenizer_of(source);
  write_side_files(made.files, output);
  if (!made.note.empty()) summary.notes.push_back(made.note);
}

std::vector<std::string> names_of_formats() {
  std::vector<std::string> names;
  for (const ExportFormat& format : kFormats) names.emplace_back(format.name);
  return names;
}

}  // namespace

std::span<const ExportFormat> export_formats() { return kFormats; }

const ExportFormat& export_format(std::string_view name) {
  const auto row = std::ranges::find(kFormats, name, &ExportFormat::name);
  if (row == kFormats.end())
    fail_usage("options", "--format", "'" + std::string(name) + "' is not a format",
               "The nearest valid one is " + nearest_name(name, names_of_formats()));
  return *row;
}

std::string context_note(const ExportFormat& format, const ModelConfig& config) {
  const int64_t exact = exact_context(config);
  if (format.windows || exact == config.context_length) return {};
  return "context: " + std::to_string(exact) + " tokens instead of " + std::to_string(config.context_length) +
         ", for what loads " + std::string(format.name) +
         " knows no sliding window in this family, and the model has one";
}

ExportSummary export_model(const ModelSource& source, const std::filesystem::path& output, const ExportOptions& options,
                           Context& context) {
  const ExportFormat& format = export_format(options.format);
  if (options.type && !format.takes_type)
    fail_usage("options", "--type", "the format '" + options.format + "' has no kinds to choose from");
  if (format.directory) check_side_files(source, options.format);
  check_memory(source, options, format, context);
  const auto writer = format.make(source, options);
  const auto plan = plan_export(source, options, format, *writer, context);
  ExportSummary summary;
  context.progress.begin("export " + options.format, static_cast<int64_t>(plan.size()), "tensors");
  writer->begin(output, plan);
  for (const PlannedTensor& planned : plan) {
    context.check_interrupted();
    writer->write(planned, context.threads);
    context.progress.update(++summary.tensors, planned.tensor->name);
    summary.quantized += planned.dense ? 0 : 1;
    if (!planned.fallback.empty()) summary.fallbacks.emplace_back(planned.tensor->name, planned.fallback);
  }
  writer->finish();
  summary.notes = writer->unsaid();
  if (format.json_tokenizer) add_json_tokenizer(source, output, summary);
  if (const std::string note = context_note(format, source.config()); !note.empty()) summary.notes.push_back(note);
  context.progress.end();
  return summary;
}

}  // namespace retort
