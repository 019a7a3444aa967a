// The values of a graph as verify computes them. Internal to export/verify.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "export/verify/onnx_wire.h"

namespace retort {

// The numbers of TensorProto.DataType.
inline constexpr int64_t kOnnxF32 = 1, kOnnxU8 = 2, kOnnxI8 = 3, kOnnxI32 = 6, kOnnxI64 = 7, kOnnxBool = 9,
                         kOnnxF16 = 10, kOnnxBF16 = 16, kOnnxU4 = 21, kOnnxI4 = 22;

using OnnxShape = std::vector<int64_t>;

// An array by its elements: `at` gives the one at a row-major index, as double whatever the type. Thread-safe.
struct OnnxArray {
  int64_t type = kOnnxF32;
  OnnxShape shape;
  std::function<double(int64_t)> at;
  bool of_weights = false;  // a recipe made of nothing else
  int64_t steps = 1;        // of weights: how many operators an element goes through

  int64_t axes() const { return static_cast<int64_t>(shape.size()); }
};

// A shape with a negative size, or one that no array of a model has, is an Error: also where a size of 0 makes it
// empty.
int64_t elements_of(std::span<const int64_t> shape);
OnnxShape strides_of(const OnnxShape& shape);  // row-major
// The elements of an array that is computed: only as many as a few tokens need.
std::vector<double> room_for(std::span<const int64_t> shape, double start = 0);

// The elements of an array where it lies otherwise: that at coordinates c is the one at offset + sum of c * strides.
OnnxArray view(const OnnxArray& array, const OnnxShape& shape, const OnnxShape& strides, int64_t offset = 0);
// Computed numbers as an array.
OnnxArray stored(int64_t type, const OnnxShape& shape, std::vector<double> values);
std::vector<double> values_of(const OnnxArray& array);
// The array, of which an element that is no number of its type is an Error naming `subject`. Integers are those that a
// double holds exactly.
OnnxArray in_range(OnnxArray array, const std::string& subject);
// A weight whose bytes, those of `file` or its own, must be as many as its type and shape need.
OnnxArray array_of(const OnnxInitializer& weight, std::span<const std::byte> bytes, const std::string& name);

// One use of an operator. What a node must not be is an Error that names it, and so is what its operator did not ask
// for: an attribute or input that changes the result would otherwise pass unseen.
struct OnnxCall {
  // `work`: how many elements and products may still be computed.
  OnnxCall(const OnnxNode& used, ThreadPool& pool, int64_t& work) : node(used), threads(pool), work_(work) {}

  const OnnxNode& node;
  std::vector<const OnnxArray*> inputs;  // null: left out
  ThreadPool& threads;

  bool has(size_t i) const { return i < inputs.size() && inputs[i] != nullptr; }
  const OnnxArray& in(size_t i) const;
  std::vector<double> values(const OnnxArray& array) const;
  std::vector<int64_t> integers(size_t i) const;  // the elements of a small input
  int64_t attribute(const char* name, int64_t fallback) const;
  double number(const char* name, double fallback) const;
  std::vector<int64_t> list(const char* name) const;  // empty: left out
  void need_all_read() const;
  void spend(std::span<const int64_t> sizes) const;  // as much work as their product
  int64_t axis(int64_t given, int64_t axes) const;   // counted from the front
  void need(bool holds, const char* what) const;

 private:
  int64_t& work_;
  mutable std::set<size_t> inputs_read_;
  mutable std::set<std::string> attributes_read_;
};

[[noreturn]] void fail_graph(const std::string& subject, const std::string& reason);

// The shape that both have after numpy's rule, and an array in it.
OnnxShape common_shape(const OnnxCall& call, const OnnxShape& a, const OnnxShape& b);
OnnxArray broadcast(const OnnxCall& call, const OnnxArray& array, const OnnxShape& shape);

// x [..., k] times the transpose of [n, k], whose element (row, column) `weight` gives and which is read once.
using OnnxElement = std::function<double(int64_t row, int64_t col)>;
OnnxArray product(const OnnxCall& call, const OnnxArray& x, int64_t n, const OnnxElement& weight);

}  // namespace retort
