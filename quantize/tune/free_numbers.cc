#include "quantize/tune/free_numbers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/base/dtype.h"

namespace retort {
namespace {

std::span<float> part_of(at::Tensor& flat, int64_t first, int64_t count) {
  return {flat.mutable_data_ptr<float>() + first, static_cast<size_t>(count)};
}

std::span<const float> part_of(const at::Tensor& flat, int64_t first, int64_t count) {
  return {flat.const_data_ptr<float>() + first, static_cast<size_t>(count)};
}

float root_mean_square(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return static_cast<float>(std::sqrt(sum / static_cast<double>(values.size())));
}

// The weights as the matrix was solved from them, where factors were folded.
std::vector<float> scaled(const SolvedMatrix& solved, std::vector<float> weights) {
  const auto cols = static_cast<size_t>(solved.matrix->cols);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!solved.column_factors.empty()) weights[i] *= solved.column_factors[i % cols];
    if (!solved.row_divisors.empty()) weights[i] /= solved.row_divisors[i / cols];
  }
  return weights;
}

}  // namespace

FreeNumbers::FreeNumbers(std::span<SolvedTensor> tensors, const StudentParameters& student, bool codes,
                         Context& context)
    : context_(context) {
  for (SolvedTensor& tensor : tensors) {
    const bool vector = tensor.plan->tensor->shape.size() == 1;
    if (!vector && !tensor.solved.matrix) continue;
    const auto slice = std::ranges::find(student.slices, tensor.plan->tensor->name, &ParameterSlice::name);
    Entry entry = make_entry(tensor, *slice, student, codes);
    entry.first = count_;
    count_ += entry.count;
    entries_.push_back(std::move(entry));
  }
}

FreeNumbers::Entry FreeNumbers::make_entry(SolvedTensor& tensor, const ParameterSlice& slice,
                                           const StudentParameters& student, bool codes) const {
  Entry entry{slice.first, slice.count, 0, slice.count, nullptr};
  if (tensor.solved.matrix) {
    entry.solved = &tensor.solved;
    entry.matrix = std::make_unique<TunedMatrix>(*tensor.solved.matrix, codes, tensor.solved.scale_type);
    entry.count = entry.matrix->parameters();
    return entry;
  }
  const at::Tensor host = student.values.narrow(0, slice.first, slice.count).cpu();
  const std::span<const float> original = part_of(host, 0, slice.count);
  const std::span<const float> start = tensor.values.empty() ? original : std::span<const float>(tensor.values);
  // As QuantizedWriter::add_folded stores it.
  const TensorPlan& plan = *tensor.plan;
  const DType type = plan.scheme == plan.tensor->scheme ? DType::kF32 : *plan.scheme.dense;
  entry.vector = {&tensor,
                  tensor.values,
                  tensor.changed_by,
                  type,
                  {start.begin(), start.end()},
                  TunedMatrix::kStep * root_mean_square(start)};
  tensor.values = entry.vector.start;
  if (!tensor.changed_by.ends_with("tuned")) tensor.changed_by += tensor.changed_by.empty() ? "tuned" : ", tuned";
  return entry;
}

at::Tensor FreeNumbers::begin(const at::Tensor& weights) const {
  at::Tensor parameters = at::zeros({count_}, at::kFloat);
  context_.threads.run(static_cast<int64_t>(entries_.size()), [&](int64_t i) {
    const Entry& entry = entries_[static_cast<size_t>(i)];
    if (!entry.matrix) return;
    const std::span<const float> own = part_of(weights, entry.first_weight, entry.weights);
    entry.matrix->begin(scaled(*entry.solved, {own.begin(), own.end()}), part_of(parameters, entry.first, entry.count));
  });
  return parameters;
}

void FreeNumbers::restore() {
  for (Entry& entry : entries_) {
    if (entry.matrix) {
      entry.matrix->restore();
      continue;
    }
    entry.vector.tensor->values = entry.vector.values_before;
    entry.vector.tensor->changed_by = entry.vector.changed_by_before;
  }
}

void FreeNumbers::set_vector(const Vector& vector, std::span<const float> parameters, std::span<float> weights) {
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = vector.start[i] + vector.unit * parameters[i];
  std::vector<std::byte> bytes(weights.size() * size_of(vector.type));
  encode_from_f32(vector.type, weights, bytes);
  decode_to_f32(vector.type, bytes, weights);
  std::ranges::copy(weights, vector.tensor->values.begin());
}

void FreeNumbers::set(const at::Tensor& parameters, at::Tensor& weights) {
  context_.threads.run(static_cast<int64_t>(entries_.size()), [&](int64_t i) {
    const Entry& entry = entries_[static_cast<size_t>(i)];
    const std::span<const float> own = part_of(parameters, entry.first, entry.count);
    const std::span<float> out = part_of(weights, entry.first_weight, entry.weights);
    if (!entry.matrix) return set_vector(entry.vector, own, out);
    entry.matrix->set(own);
    dequantize_rows(*entry.solved->matrix, 0, entry.solved->matrix->rows, out);
  });
}

void FreeNumbers::gradient(const at::Tensor& by_weights, at::Tensor& by_parameters) const {
  context_.threads.run(static_cast<int64_t>(entries_.size()), [&](int64_t i) {
    const Entry& entry = entries_[static_cast<size_t>(i)];
    const std::span<const float> in = part_of(by_weights, entry.first_weight, entry.weights);
    const std::span<float> out = part_of(by_parameters, entry.first, entry.count);
    if (entry.matrix) return entry.matrix->gradient(in, out);
    std::ranges::transform(in, out.begin(), [&](float value) { return value * entry.vector.unit; });
  });
}

}  // namespace retort
