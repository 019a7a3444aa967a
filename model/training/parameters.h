// The student's weights while it is trained: one flat float32 vector, of which every tensor is a slice.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/checkpoint/model_source.h"
#include "model/decoder.h"

namespace retort {

struct ParameterSlice {
  const TensorRule* rule;
  int64_t layer;  // -1: not per layer
  std::string name;
  std::vector<int64_t> shape;
  DType stored;          // the type it has in the checkpoint, and gets in the result
  int64_t first, count;  // in the flat vector
};

struct StudentParameters {
  ModelConfig config;
  std::vector<ParameterSlice> slices;  // matrices first, each kind in the order of a forward pass
  int64_t matrix_elements = 0;         // elements [0, matrix_elements) are matrices
  at::Tensor values;                   // flat float32
};

StudentParameters load_student(const ModelSource& source, const at::Device& device);
// Slice `slice` of any vector that is laid out like `values`, in its shape.
at::Tensor view_of(const at::Tensor& flat, const ParameterSlice& slice);

// Leaves of one autograd graph that share the memory of `flat` (the values in the type to compute in), and the
// decoder made of them. Graphs of different threads never share a leaf.
struct GraphLeaves {
  std::vector<at::Tensor> leaves;  // as the slices
  DecoderWeights weights;
};
GraphLeaves make_leaves(const StudentParameters& student, const at::Tensor& flat, bool requires_grad);

// `values` rounded to the types that the checkpoint stores: what a reader of the result will see.
at::Tensor rounded_values(const StudentParameters& student);
// Writes the tensors in the order of the checkpoint.
void write_student(const StudentParameters& student, const ModelSource& source, ModelWriter& writer);

}  // namespace retort
