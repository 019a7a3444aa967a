#include "model/training/parameters.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <span>

namespace retort {
namespace {

// Slices of all tensors, without their places yet.
std::vector<ParameterSlice> list_slices(const ModelSource& source) {
  std::vector<ParameterSlice> slices;
  for (const ExpectedTensor& tensor : expected_tensors(source.config())) {
    const int64_t count = std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
    const DType stored = source.at(tensor.name).scheme.dense.value();
    slices.push_back({tensor.rule, tensor.layer, tensor.name, tensor.shape, stored, 0, count});
  }
  std::stable_partition(slices.begin(), slices.end(), [](const auto& slice) { return slice.shape.size() == 2; });
  return slices;
}

at::ScalarType torch_type(DType type) {
  return type == DType::kBF16 ? at::kBFloat16 : type == DType::kF16 ? at::kHalf : at::kFloat;
}

}  // namespace

StudentParameters load_student(const ModelSource& source, const at::Device& device) {
  StudentParameters student{source.config(), list_slices(source), 0, {}};
  int64_t elements = 0;
  for (ParameterSlice& slice : student.slices) {
    slice.first = elements;
    elements += slice.count;
    if (slice.shape.size() == 2) student.matrix_elements = elements;
  }
  at::Tensor values = at::empty({elements}, at::kFloat);
  const std::span all(values.mutable_data_ptr<float>(), static_cast<size_t>(elements));
  for (const ParameterSlice& slice : student.slices)
    source.read_f32(source.at(slice.name), 0, slice.shape[0],
                    all.subspan(static_cast<size_t>(slice.first), static_cast<size_t>(slice.count)));
  student.values = values.to(device);
  return student;
}

at::Tensor view_of(const at::Tensor& flat, const ParameterSlice& slice) {
  return flat.narrow(0, slice.first, slice.count).view(slice.shape);
}

GraphLeaves make_leaves(const StudentParameters& student, const at::Tensor& flat, bool requires_grad) {
  GraphLeaves graph;
  graph.weights.layers.resize(static_cast<size_t>(student.config.layers));
  for (const ParameterSlice& slice : student.slices) {
    at::Tensor leaf = view_of(flat, slice).detach().requires_grad_(requires_grad);
    RoleTensors& owner = slice.layer < 0 ? graph.weights.top : graph.weights.layers[static_cast<size_t>(slice.layer)];
    owner(slice.rule->role, slice.rule->part) = leaf;
    graph.leaves.push_back(std::move(leaf));
  }
  if (student.config.tied_embeddings) graph.weights.top(Role::kHead) = graph.weights.top(Role::kEmbedding);
  return graph;
}

at::Tensor rounded_values(const StudentParameters& student) {
  at::Tensor rounded = student.values.clone();
  for (const ParameterSlice& slice : student.slices) {
    at::Tensor part = rounded.narrow(0, slice.first, slice.count);
    part.copy_(part.to(torch_type(slice.stored)));
  }
  return rounded;
}

void write_student(const StudentParameters& student, const ModelSource& source, ModelWriter& writer) {
  const at::Tensor values = student.values.cpu();
  const std::span all(values.const_data_ptr<float>(), static_cast<size_t>(values.numel()));
  for (const ModelTensor& tensor : source.tensors()) {
    const auto slice = std::ranges::find(student.slices, tensor.name, &ParameterSlice::name);
    if (slice != student.slices.end())
      writer.add_f32(slice->name, slice->stored, slice->shape,
                     all.subspan(static_cast<size_t>(slice->first), static_cast<size_t>(slice->count)));
  }
}

}  // namespace retort
