// The native quantized directory as it grows, and what is reported of its tensors.
#pragma once

#include <filesystem>
#include <future>
#include <span>
#include <string>

#include "quantize/quantizer.h"
#include "quantize/rounding.h"

namespace retort {

class QuantizedWriter {
 public:
  // `directory` exists; `source` and `context` must outlive the writer.
  QuantizedWriter(const ModelSource& source, const std::filesystem::path& directory, Context& context);
  void add_quantized(const TensorPlan& plan, SolvedMatrix solved);
  // Rounded on its way to the file. Gives the reason where it cannot be rounded: nothing was added then.
  std::string add_rounded(const TensorPlan& plan, RunRounder rounder);
  // A matrix that cannot be quantized for this reason, as it is: a fallback.
  void add_unquantized(const TensorPlan& plan, const std::string& reason);
  // A vector that factors were folded into: in float32, or in the type that the plan asks for.
  void add_folded(const TensorPlan& plan, std::span<const float> values, const std::string& method);
  // In the plan's type. What f16 cannot hold becomes bf16, which is a fallback.
  void add_dense(const TensorPlan& plan);
  std::span<const TensorReport> reports() const { return reports_; }
  // Writes config.json and the report. `options` is what the report says of how it was made.
  void finish(QuantizeSummary& summary, const Json& options);

 private:
  void store_rounded(const ModelTensor& tensor, DType type, TensorReport& report);
  bool fits_f16(const ModelTensor& tensor);
  void record(const ModelTensor& tensor, TensorReport report, int64_t outliers = 0);
  void record(const TensorPlan& plan, const SolvedMatrix& solved, double error, int64_t outliers = 0);
  void write_behind(const std::string& name, QuantizedMatrix matrix);
  ModelWriter& writer();  // nothing is being written

  const ModelSource& source_;
  Context& context_;
  ModelWriter writer_;
  std::vector<TensorReport> reports_;
  double bits_ = 0, weights_ = 0;
  std::future<void> writing_;  // the last matrix, while the next is solved
};

// Whether the matrix is rounded, and neither solved with others nor changed afterwards: it need not be held whole.
bool is_rounded_in_runs(const TensorPlan& plan, const QuantizeOptions& options);

// What storing a dense tensor of so many columns holds at most.
uint64_t dense_run_bytes(int64_t cols, uint64_t threads);

// Of a dense tensor as it is read (ModelSource::read_dense), which need not be as it is stored.
uint64_t dense_bytes(const ModelTensor& tensor);

// The rows of a tensor of the model.
MatrixTask task_of(const ModelSource& source, const TensorPlan& plan);

}  // namespace retort
