#include "quantize/artifact.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/in_order.h"
#include "quantize/rounding.h"
#include "quantize/tune/tune.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr float kLargestF16 = 65504.0f;

std::string joined(const std::string& first, const std::string& second) {
  return first + (first.empty() || second.empty() ? "" : "; ") + second;
}

// A run of rows of a dense tensor as it is stored, and what rounding made of it.
struct DenseRun {
  std::vector<std::byte> bytes;
  ErrorSums sums = {};
  bool finite = true;
};

// What is stored of a dense tensor.
struct StoredDense {
  ErrorSums sums = {};
  bool finite = true;
  double relative_error() const { return finite ? sums.relative() : 0.0; }
};

// Copied numbers that are none are not made by us, but must not go unseen.
void report_not_finite(TensorReport& report, bool finite) {
  if (finite || report.fallback.find(kNotFinite) != std::string::npos) return;
  report.fallback = joined(report.fallback, std::string(kNotFinite) + ": kept as it is");
}

DenseRun round_values(DType type, std::span<const float> values) {
  DenseRun run{.bytes = std::vector<std::byte>(values.size() * size_of(type))};
  encode_from_f32(type, values, run.bytes);
  std::vector<float> rounded(values.size());
  decode_to_f32(type, run.bytes, rounded);
  for (size_t i = 0; i < values.size(); ++i) {
    run.sums.error += std::pow(static_cast<double>(values[i]) - rounded[i], 2);
    run.sums.weight += std::pow(static_cast<double>(values[i]), 2);
  }
  run.finite = all_finite(rounded);
  return run;
}

constexpr int64_t kRunValues = 1 << 17;

int64_t rows_in_run(const ModelTensor& tensor) {
  return std::max<int64_t>(1, kRunValues / std::max<int64_t>(1, tensor.cols()));
}

std::vector<float> read_rows(const ModelSource& source, const ModelTensor& tensor, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count * tensor.cols()));
  source.read_f32(tensor, first, count, values);
  return values;
}

// Makes the runs of a dense tensor by all threads and stores them.
template <typename Make>
StoredDense store_dense(const ModelTensor& tensor, DType type, ModelWriter& writer, ThreadPool& threads,
                        const Make& make) {
  StoredDense stored;
  writer.begin_dense(tensor.name, type, tensor.shape);
  in_order(tensor.rows(), rows_in_run(tensor), threads, make, [&](const DenseRun& run) {
    writer.append(run.bytes);
    stored.sums += run.sums;
    stored.finite = stored.finite && run.finite;
  });
  return stored;
}

}  // namespace

bool is_rounded_in_runs(const TensorPlan& plan, const QuantizeOptions& options) {
  const bool solved = find_quantizer(options.method).needs_calibration && plan.rule->input != Input::kNone;
  return !plan.scheme.is_dense() && !solved && plan.outliers == 0 && !tunes(options);
}

uint64_t dense_run_bytes(int64_t cols, uint64_t threads) {
  constexpr uint64_t kByValue = 12 + 4 * kReadyRuns;  // read, rounded, decoded again; as stored while it waits for that
  return threads * kByValue * static_cast<uint64_t>(std::max(kRunValues, cols));
}

uint64_t dense_bytes(const ModelTensor& tensor) {
  return static_cast<uint64_t>(tensor.elements()) * size_of(*tensor.scheme.dense);
}

MatrixTask task_of(const ModelSource& source, const TensorPlan& plan) {
  const ModelTensor& tensor = *plan.tensor;
  return {tensor.name,
          tensor.rows(),
          tensor.cols(),
          plan.scheme,
          [&source, &tensor](int64_t first, int64_t count, std::span<float> out) {
            source.read_f32(tensor, first, count, out);
          },
          plan.scale_type};
}

QuantizedWriter::QuantizedWriter(const ModelSource& source, const fs::path& directory, Context& context)
    : source_(source), context_(context), writer_(directory, source.side_files()) {}

void QuantizedWriter::record(const ModelTensor& tensor, TensorReport report, int64_t outliers) {
  const auto weights = static_cast<double>(tensor.elements());
  bits_ += weights * bits_per_weight(parse_scheme(report.scheme), tensor.rows(), tensor.cols(), outliers);
  weights_ += weights;
  reports_.push_back(std::move(report));
}

void QuantizedWriter::record(const TensorPlan& plan, const SolvedMatrix& solved, double error, int64_t outliers) {
  record(*plan.tensor,
         {plan.tensor->name, name_of(plan.scheme), solved.method, error, joined(plan.fallback, solved.fallback),
          solved.seconds, solved.details},
         outliers);
}

ModelWriter& QuantizedWriter::writer() {
  if (writing_.valid()) writing_.get();
  return writer_;
}

// With a limit to memory there is room for one matrix.
void QuantizedWriter::write_behind(const std::string& name, QuantizedMatrix matrix) {
  ModelWriter& writer = this->writer();
  auto write = [&writer, name, matrix = std::move(matrix)] { writer.add_quantized(name, matrix); };
  if (context_.threads.size() == 1 || context_.memory_limit != 0) return write();
  writing_ = std::async(std::launch::async, std::move(write));
}

void QuantizedWriter::add_quantized(const TensorPlan& plan, SolvedMatrix solved) {
  if (!solved.matrix) return add_unquantized(plan, solved.fallback);
  const double error = solved.relative_error
                           ? *solved.relative_error
                           : relative_error(scaled(task_of(source_, plan), solved.column_factors, solved.row_divisors),
                                            *solved.matrix, context_);
  const std::vector<int32_t>& outliers = solved.matrix->outlier_columns;
  if (!outliers.empty()) solved.details["outliers"] = outliers;
  record(plan, solved, error, static_cast<int64_t>(outliers.size()));
  write_behind(plan.tensor->name, std::move(*solved.matrix));
}

std::string QuantizedWriter::add_rounded(const TensorPlan& plan, RunRounder rounder) {
  if (!writer().add_quantized(plan.tensor->name, plan.scheme, rounder.runs(), context_.threads))
    return rounder.refusal(context_);
  const SolvedMatrix solved = rounder.report();
  record(plan, solved, *solved.relative_error);
  return {};
}

void QuantizedWriter::add_unquantized(const TensorPlan& plan, const std::string& reason) {
  TensorPlan kept = plan;
  kept.scheme = plan.tensor->scheme;
  kept.fallback = joined(plan.fallback, reason + ": kept as it is");
  add_dense(kept);
}

void QuantizedWriter::add_dense(const TensorPlan& plan) {
  const ModelTensor& tensor = *plan.tensor;
  TensorReport report{tensor.name, name_of(plan.scheme), "copy", 0, plan.fallback, 0, Json::object()};
  if (plan.scheme == tensor.scheme) {
    const DType type = *tensor.scheme.dense;
    const auto copy = [&](int64_t first, int64_t count) {
      std::vector<float> values(static_cast<size_t>(count * tensor.cols()));
      DenseRun run{.bytes = std::vector<std::byte>(values.size() * size_of(type))};
      source_.read_dense(tensor, first, count, run.bytes);
      decode_to_f32(type, run.bytes, values);
      run.finite = all_finite(values);
      return run;
    };
    report_not_finite(report, store_dense(tensor, type, writer(), context_.threads, copy).finite);
  } else {
    store_rounded(tensor, *plan.scheme.dense, report);
  }
  record(tensor, std::move(report));
}

void QuantizedWriter::add_folded(const TensorPlan& plan, std::span<const float> values, const std::string& method) {
  const ModelTensor& tensor = *plan.tensor;
  // The checkpoint's own 16 bits would round what it holds exactly.
  const DType type = plan.scheme == tensor.scheme ? DType::kF32 : *plan.scheme.dense;
  const DenseRun rounded = round_values(type, values);
  TensorReport report{tensor.name, std::string(name_of(type)), method, 0, plan.fallback, 0, Json::object()};
  if (rounded.finite) report.relative_error = rounded.sums.relative();
  report_not_finite(report, rounded.finite);
  writer().add_dense(tensor.name, type, tensor.shape, rounded.bytes);
  record(tensor, std::move(report));
}

bool QuantizedWriter::fits_f16(const ModelTensor& tensor) {
  std::atomic<bool> fits = true;
  context_.threads.run_ranges(tensor.rows(), rows_in_run(tensor), [&](int64_t first, int64_t last) {
    for (const float value : read_rows(source_, tensor, first, last - first))
      if (std::isfinite(value) && std::abs(value) > kLargestF16) fits = false;
  });
  return fits;
}

void QuantizedWriter::store_rounded(const ModelTensor& tensor, DType type, TensorReport& report) {
  if (type == DType::kF16 && !fits_f16(tensor)) {
    type = DType::kBF16;
    report.scheme = name_of(type);
    report.fallback = joined(report.fallback, "a weight is too large for f16: bf16 instead");
  }
  const auto round = [&](int64_t first, int64_t count) {
    return round_values(type, read_rows(source_, tensor, first, count));
  };
  const StoredDense stored = store_dense(tensor, type, writer(), context_.threads, round);
  report.relative_error = stored.relative_error();
  report_not_finite(report, stored.finite);
}

void QuantizedWriter::finish(QuantizeSummary& summary, const Json& options) {
  summary.tensors = std::move(reports_);
  summary.bits_per_weight = bits_ / weights_;
  Json report = to_json(summary, Figures::kReproducible);
  report["options"] = options;
  writer().finish(source_.config().json, report);
}

}  // namespace retort
