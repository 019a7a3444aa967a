// All that tuning changes in a model, as one flat vector of parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/training/parameters.h"
#include "quantize/tune/tune.h"
#include "quantize/tune/tuned_matrix.h"

namespace retort {

// The tensors must outlive this object, which changes their matrices and values in place.
class FreeNumbers {
 public:
  // `student` says where each tensor lies in the flat vector of weights.
  FreeNumbers(std::span<SolvedTensor> tensors, const StudentParameters& student, bool codes, Context& context);
  int64_t count() const { return count_; }
  // The parameters to begin with; `weights`: of the float model, flat.
  at::Tensor begin(const at::Tensor& weights) const;
  // Gives matrices and vectors back what they were.
  void restore();
  // Sets matrices and vectors, and what they decode to in `weights`. Tensors that are not tuned are not touched.
  void set(const at::Tensor& parameters, at::Tensor& weights);
  // From the gradient by the weights to that by the parameters.
  void gradient(const at::Tensor& by_weights, at::Tensor& by_parameters) const;

 private:
  struct Vector {  // becomes start + unit * parameter, rounded to its type
    SolvedTensor* tensor;
    std::vector<float> values_before;
    std::string changed_by_before;
    DType type;
    std::vector<float> start;
    float unit;
  };
  struct Entry {
    int64_t first_weight, weights, first, count;
    std::unique_ptr<TunedMatrix> matrix;  // null: a vector
    SolvedMatrix* solved = nullptr;
    Vector vector = {};
  };
  Entry make_entry(SolvedTensor& tensor, const ParameterSlice& slice, const StudentParameters& student,
                   bool codes) const;
  static void set_vector(const Vector& vector, std::span<const float> parameters, std::span<float> weights);

  Context& context_;
  std::vector<Entry> entries_;
  int64_t count_ = 0;
};

}  // namespace retort
