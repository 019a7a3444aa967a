#include "quantize/artifact.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/dtype.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr float kLargestF16 = 65504.0f;

std::string joined(const std::string& first, const std::string& second) {
  return first + (first.empty() || second.empty() ? "" : "; ") + second;
}

// ||values - rounded|| / ||values||, and the rounded bytes.
double round_values(DType type, std::span<const float> values, std::vector<std::byte>& bytes) {
  bytes.resize(values.size() * size_of(type));
  encode_from_f32(type, values, bytes);
  std::vector<float> rounded(values.size());
  decode_to_f32(type, bytes, rounded);
  double error = 0, weight = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(static_cast<double>(values[i]) - rounded[i], 2);
    weight += std::pow(static_cast<double>(values[i]), 2);
  }
  return weight > 0 ? std::sqrt(error / weight) : 0.0;
}

bool fits_f16(std::span<const float> values) {
  return std::ranges::none_of(values,
                              [](float value) { return std::isfinite(value) && std::abs(value) > kLargestF16; });
}

}  // namespace

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
  const ModelTensor& tensor = *plan.tensor;
  const double error = solved.relative_error
                           ? *solved.relative_error
                           : relative_error(scaled(task_of(source_, plan), solved.column_factors, solved.row_divisors),
                                            *solved.matrix, context_);
  const std::vector<int32_t>& outliers = solved.matrix->outlier_columns;
  if (!outliers.empty()) solved.details["outliers"] = outliers;
  record(tensor,
         {tensor.name, name_of(plan.scheme), solved.method, error, joined(plan.fallback, solved.fallback),
          solved.seconds, solved.details},
         static_cast<int64_t>(outliers.size()));
  write_behind(tensor.name, std::move(*solved.matrix));
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
    std::vector<std::byte> bytes(dense_bytes(tensor));
    source_.read_dense(tensor, 0, tensor.rows(), bytes);
    writer().add_dense(tensor.name, *tensor.scheme.dense, tensor.shape, bytes);
  } else {
    store_rounded(tensor, *plan.scheme.dense, report);
  }
  record(tensor, std::move(report));
}

void QuantizedWriter::add_folded(const TensorPlan& plan, std::span<const float> values, const std::string& method) {
  const ModelTensor& tensor = *plan.tensor;
  // The checkpoint's own 16 bits would round what it holds exactly.
  const DType type = plan.scheme == tensor.scheme ? DType::kF32 : *plan.scheme.dense;
  std::vector<std::byte> bytes;
  TensorReport report{tensor.name, std::string(name_of(type)), method, 0, plan.fallback, 0, Json::object()};
  report.relative_error = round_values(type, values, bytes);
  writer().add_dense(tensor.name, type, tensor.shape, bytes);
  record(tensor, std::move(report));
}

void QuantizedWriter::store_rounded(const ModelTensor& tensor, DType type, TensorReport& report) {
  const std::vector<float> values = source_.read_f32(tensor);
  if (type == DType::kF16 && !fits_f16(values)) {
    type = DType::kBF16;
    report.scheme = name_of(type);
    report.fallback = joined(report.fallback, "a weight is too large for f16: bf16 instead");
  }
  std::vector<std::byte> bytes;
  report.relative_error = round_values(type, values, bytes);
  writer().add_dense(tensor.name, type, tensor.shape, bytes);
}

void QuantizedWriter::finish(QuantizeSummary& summary, const Json& options) {
  summary.tensors = std::move(reports_);
  summary.bits_per_weight = bits_ / weights_;
  Json report = to_json(summary, Figures::kReproducible);
  report["options"] = options;
  writer().finish(source_.config().json, report);
}

}  // namespace retort
