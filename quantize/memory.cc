#include "quantize/memory.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/base/error.h"
#include "core/base/memory.h"
#include "core/base/text.h"
#include "quantize/allocate/measured_units.h"
#include "quantize/artifact.h"
#include "quantize/rounding.h"
#include "quantize/tune/tune.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr uint64_t kFloat = sizeof(float);
constexpr uint64_t kWriterBuffers = uint64_t{20} << 20;  // of the tensors' file, and small things
constexpr uint64_t kReadPages = uint64_t{16} << 20;      // of the checkpoint (MappedFile::release)
// Code and tables that LibTorch touches when it first works, and for each thread the arena of the allocator and the
// buffers in which the matrix products of this CPU lay out their operands.
constexpr uint64_t kTorchPages = uint64_t{128} << 20, kThreadPages = uint64_t{32} << 20;
constexpr uint64_t kPieceBytes = (uint64_t{1} << 16) * kFloat;
constexpr uint64_t kShardTokens = 1024;
constexpr int64_t kWide = 2048;  // inputs from which on a thread solves more rows at once (gptq/solver.cc)

uint64_t bytes(int64_t count, uint64_t size = 1) { return static_cast<uint64_t>(count) * size; }

// Columns in 16 bits, as floats and as they are stored, and the sums that they are chosen by.
uint64_t keeping(const TensorPlan& plan) {
  constexpr uint64_t kSums = 17 * sizeof(double);
  if (plan.outliers == 0) return 0;
  return bytes(plan.tensor->rows() * plan.outliers, kFloat + 2) + bytes(plan.tensor->cols(), kSums);
}

// Storing one tensor: a few rows of it, or its codes and their packed form.
uint64_t storing(TensorPlan plan, const QuantizeOptions& options, uint64_t threads) {
  if (!plan.candidates.empty()) {
    uint64_t most = 0;
    for (const Scheme& scheme : std::exchange(plan.candidates, {})) {
      plan.scheme = scheme;
      most = std::max(most, storing(plan, options, threads));
    }
    return most;
  }
  const ModelTensor& tensor = *plan.tensor;
  const uint64_t elements = bytes(tensor.elements());
  const uint64_t dense = dense_run_bytes(tensor.cols(), threads);  // also where a matrix cannot be rounded
  if (plan.scheme.is_dense()) return dense;
  const uint64_t scales = bytes(tensor.rows() * plan.scheme.groups(tensor.cols()), kFloat + 1);
  const uint64_t grid = plan.scheme.granularity == Granularity::kTensor ? tensor.bytes + 2 * kFloat * elements : 0;
  if (is_rounded_in_runs(plan, options))
    return std::max(scales + grid + run_rounder_bytes(tensor.cols(), threads), dense);
  const uint64_t piece = std::max(kPieceBytes, bytes(tensor.cols(), kFloat));
  return 2 * elements + 2 * scales + grid + 4 * piece * threads + keeping(plan);
}

uint64_t largest_storing(std::span<const TensorPlan> plans, int64_t first_layer, const QuantizeOptions& options,
                         uint64_t threads) {
  uint64_t most = 0;
  for (const TensorPlan& plan : plans)
    if (plan.layer >= first_layer) most = std::max(most, storing(plan, options, threads));
  return most;
}

// A token is one byte of a text or more.
uint64_t corpus_bytes(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::exists(path) ? fs::file_size(path) : 0;
  uint64_t sum = 0;
  for (const auto& entry : fs::directory_iterator(path)) {
    const fs::path extension = entry.path().extension();
    if (extension == ".txt" || extension == ".md") sum += entry.file_size();
  }
  return sum;
}

int64_t widest_input(const ModelConfig& config) {
  return std::max({config.hidden_size, config.query_size(), config.ffn_size});
}

// A layer in float32 with its codes, the text's states at its entrance and on their way, H, its factor and a copy while
// that is made, and what each thread works with.
uint64_t walking(const ModelSource& source, std::span<const TensorPlan> plans, const QuantizeOptions& options,
                 uint64_t threads) {
  const ModelConfig& config = source.config();
  const int64_t length =
      options.sequence_length > 0 ? options.sequence_length : std::min<int64_t>(512, config.context_length);
  const int64_t wide = widest_input(config),
                projected = std::max(3 * config.ffn_size, 3 * (config.query_size() + 2 * config.kv_size()));
  const bool follows = options.aim == "float";
  const uint64_t value = options.precision == "bf16" ? 2 : kFloat, walks = follows ? 2 : 1;
  uint64_t layer = 0, matrix = 0;
  for (const TensorPlan& plan : plans) {
    if (plan.layer == 0) layer += bytes(plan.tensor->elements(), (follows ? 2 * kFloat : kFloat + 2) + 2);
    if (plan.layer == 0) layer += keeping(plan);
    if (plan.layer == 0) matrix = std::max(matrix, bytes(plan.tensor->elements(), kFloat));
  }
  // The residual stream, and the inputs of two groups of matrices: those just used and those that come of them.
  const int64_t tokens = std::min(options.samples * length, static_cast<int64_t>(corpus_bytes(options.calibration)));
  const uint64_t lags = follows ? bytes(tokens * config.hidden_size, kFloat) : 0;
  const uint64_t states =
      walks * (bytes(tokens * config.hidden_size, kFloat) + bytes(tokens * (config.hidden_size + wide), value)) + lags;
  const uint64_t matrices = 3 + (find_quantizer(options.method).scales_inputs ? 1 : 0);
  const uint64_t moments = matrices * bytes(wide * wide, kFloat);
  const auto shard = std::max(kShardTokens, bytes(length)) * bytes(projected + 2 * config.hidden_size, kFloat);
  const uint64_t solver = 7 * (wide < kWide ? 64 : 256) * bytes(wide, kFloat);
  const uint64_t pairs = kShardTokens * bytes(wide, 2);
  return kTorchPages + threads * kThreadPages + layer + walks * matrix + states + moments + pairs +
         threads * (shard + solver);
}

// The model in float32, what it computes on the windows of a sensitivity measurement, the rounded matrices of a unit,
// and one matrix's rounding.
uint64_t measuring(const ModelSource& source, std::span<const TensorPlan> plans, const QuantizeOptions& options,
                   uint64_t threads) {
  const ModelConfig& config = source.config();
  const SensitivityWindows windows = sensitivity_windows(config, options);
  uint64_t weights = 0, matrix = 0, rounded = 0;
  for (const TensorPlan& plan : plans) {
    weights += bytes(plan.tensor->elements(), kFloat);
    matrix = std::max(matrix, bytes(plan.tensor->elements(), 2 * kFloat));
  }
  for (const MeasuredUnit& unit : measured_units(config, plans, windows).units) {
    uint64_t together = 0;
    for (const size_t member : unit.members) together += bytes(plans[member].tensor->elements(), kFloat);
    rounded = std::max(rounded, together);
  }
  const int64_t states = (config.layers + 1) * config.hidden_size + config.vocab_size;
  const int64_t moving = 4 * config.vocab_size + 3 * config.ffn_size + 3 * (config.query_size() + 2 * config.kv_size());
  return kTorchPages + weights + matrix + rounded + bytes(windows.count * windows.length * states, kFloat) +
         threads * bytes(windows.length * moving, kFloat);
}

// A text while it is read (the file and a copy, the parts of a directory while they are joined) and its tokens.
uint64_t reading(const fs::path& text) { return 3 * corpus_bytes(text); }

bool measures_model(const QuantizeOptions& options) { return options.scheme == "auto" && !options.calibration.empty(); }

bool walks_model(const QuantizeOptions& options) {
  const Quantizer& quantizer = find_quantizer(options.method);
  return quantizer.needs_calibration || (quantizer.weighs_columns && options.imatrix.empty());
}

}  // namespace

bool computes_model(const QuantizeOptions& options) {
  return measures_model(options) || walks_model(options) || tunes(options);
}

uint64_t estimate_memory(const ModelSource& source, std::span<const TensorPlan> plans, const QuantizeOptions& options,
                         const Context& context) {
  const auto threads = static_cast<uint64_t>(context.threads.size());
  uint64_t needed = largest_storing(plans, -1, options, threads);
  if (measures_model(options)) needed = std::max(needed, measuring(source, plans, options, threads));
  if (walks_model(options))
    needed = std::max(needed, walking(source, plans, options, threads) + largest_storing(plans, 0, options, threads));
  if (computes_model(options)) needed = std::max(needed, reading(options.calibration));
  return resident_bytes() + kWriterBuffers + kReadPages + needed;
}

void require_memory(const ModelSource& source, std::span<const TensorPlan> plans, const QuantizeOptions& options,
                    const Context& context) {
  if (context.memory_limit == 0) return;
  const uint64_t needed = estimate_memory(source, plans, options, context);
  if (needed <= context.memory_limit) return;
  const uint64_t mebibytes = (needed >> 20) + 8;  // what a process has when it starts varies a little
  fail("quantize", source.path().string(), "this run needs more memory than " + format_bytes(context.memory_limit),
       "The smallest limit that does is --memory " + std::to_string(mebibytes) + "MiB" +
           (options.calibration.empty() ? "" : "; fewer or shorter --samples need less"));
}

}  // namespace retort
