#include "export/verify/onnx_array.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "export/verify/rounding.h"

namespace retort {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 40;  // of any array: more is no shape but damage
constexpr size_t kMostAxes = 8;
constexpr int64_t kMostComputed = int64_t{1} << 24;    // of one that is held: the logits of a hundred tokens
constexpr int64_t kLargestInteger = int64_t{1} << 53;  // up to here a double holds all

template <typename T>
double number_at(const std::byte* bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes + static_cast<size_t>(i) * sizeof value, sizeof value);
  return static_cast<double>(value);
}

uint16_t half_at(const std::byte* bytes, int64_t i) {
  uint16_t bits;
  std::memcpy(&bits, bytes + static_cast<size_t>(i) * sizeof bits, sizeof bits);
  return bits;
}

int nibble_at(const std::byte* bytes, int64_t i) {
  return std::to_integer<int>(bytes[static_cast<size_t>(i / 2)]) >> (i % 2 * 4) & 15;
}

struct Storage {
  int64_t type, bits;
  double (*at)(const std::byte* bytes, int64_t i);
  int64_t least = 0, most = 0;  // of integers
};

constexpr Storage kStorages[] = {
    {kOnnxF32, 32, number_at<float>},
    {kOnnxU8, 8, number_at<uint8_t>, 0, UINT8_MAX},
    {kOnnxI8, 8, number_at<int8_t>, INT8_MIN, INT8_MAX},
    {kOnnxI32, 32, number_at<int32_t>, INT32_MIN, INT32_MAX},
    {kOnnxI64, 64, number_at<int64_t>, -kLargestInteger, kLargestInteger},
    {kOnnxBool, 8, number_at<uint8_t>, 0, 1},
    {kOnnxF16, 16, [](const std::byte* bytes, int64_t i) -> double { return f16_number(half_at(bytes, i)); }},
    {kOnnxBF16, 16, [](const std::byte* bytes, int64_t i) -> double { return bf16_number(half_at(bytes, i)); }},
    {kOnnxU4, 4, [](const std::byte* bytes, int64_t i) -> double { return nibble_at(bytes, i); }, 0, 15},
    {kOnnxI4, 4, [](const std::byte* bytes, int64_t i) -> double { return (nibble_at(bytes, i) ^ 8) - 8; }, -8, 7},
};

// The product of the sizes, each taken for at least 1. No product of some of them is larger.
int64_t extent_of(std::span<const int64_t> sizes) {
  int64_t extent = 1;
  for (const int64_t size : sizes) {
    if (size < 0 || size > kMostElements / extent || sizes.size() > kMostAxes)
      fail_graph("model.onnx", "an array of it has no possible shape");
    extent *= std::max<int64_t>(size, 1);
  }
  return extent;
}

}  // namespace

void fail_graph(const std::string& subject, const std::string& reason) {
  fail("verify", subject, reason, "The graph is damaged, or another program wrote it");
}

int64_t elements_of(std::span<const int64_t> shape) {
  const int64_t extent = extent_of(shape);
  return std::ranges::find(shape, 0) == shape.end() ? extent : 0;
}

OnnxShape strides_of(const OnnxShape& shape) {
  extent_of(shape);
  OnnxShape strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

OnnxArray view(const OnnxArray& array, const OnnxShape& shape, const OnnxShape& strides, int64_t offset) {
  OnnxArray out{array.type, shape, array.at};
  if (offset == 0 && strides == strides_of(shape)) return out;
  out.at = [at = array.at, shape, strides, offset](int64_t i) {
    int64_t from = offset;
    for (size_t d = shape.size(); d-- > 0; i /= shape[d]) from += i % shape[d] * strides[d];
    return at(from);
  };
  return out;
}

OnnxArray stored(int64_t type, const OnnxShape& shape, std::vector<double> values) {
  const auto held = std::make_shared<const std::vector<double>>(std::move(values));
  return {type, shape, [held](int64_t i) { return (*held)[static_cast<size_t>(i)]; }};
}

std::vector<double> room_for(std::span<const int64_t> shape, double start) {
  const int64_t count = elements_of(shape);
  if (count > kMostComputed) fail_graph("model.onnx", "an array that a few tokens need has more than 2^24 elements");
  return std::vector<double>(static_cast<size_t>(count), start);
}

std::vector<double> values_of(const OnnxArray& array) {
  std::vector<double> values = room_for(array.shape);
  for (size_t i = 0; i < values.size(); ++i) values[i] = array.at(static_cast<int64_t>(i));
  return values;
}

OnnxArray in_range(OnnxArray array, const std::string& subject) {
  const auto storage = std::ranges::find(kStorages, array.type, &Storage::type);
  if (storage == std::end(kStorages) || storage->least == storage->most) return array;
  const auto least = static_cast<double>(storage->least), most = static_cast<double>(storage->most);
  array.at = [at = array.at, least, most, subject](int64_t i) {
    const double value = at(i);
    if (!(value >= least && value <= most && value == std::trunc(value)))  // NaN too
      fail_graph(subject, "it gives a number that its type does not have");
    return value;
  };
  return array;
}

OnnxArray array_of(const OnnxInitializer& weight, std::span<const std::byte> bytes, const std::string& name) {
  const auto storage = std::ranges::find(kStorages, weight.data_type, &Storage::type);
  if (storage == std::end(kStorages)) fail_graph(name, "its type is unknown");
  if (bytes.size() != static_cast<size_t>((elements_of(weight.dims) * storage->bits + 7) / 8))
    fail_graph(name, "it has more or fewer bytes than its shape needs");
  const auto at = [read = storage->at, data = bytes.data()](int64_t i) { return read(data, i); };
  const OnnxArray array{weight.data_type, weight.dims, at, true};
  const bool has_others = array.type == kOnnxI64 || array.type == kOnnxBool;  // its bytes, than its range
  return has_others ? in_range(array, name) : array;
}

const OnnxArray& OnnxCall::in(size_t i) const {
  if (!has(i)) fail_graph(label_of(node), "it lacks input " + std::to_string(i));
  inputs_read_.insert(i);
  return *inputs[i];
}

std::vector<double> OnnxCall::values(const OnnxArray& array) const {
  spend(array.shape);
  return values_of(array);
}

std::vector<int64_t> OnnxCall::integers(size_t i) const {
  need(in(i).type == kOnnxI64 || in(i).type == kOnnxI32, "an input of it is no integers");
  std::vector<int64_t> out;
  for (const double value : values(in(i))) out.push_back(static_cast<int64_t>(value));
  return out;
}

int64_t OnnxCall::attribute(const char* name, int64_t fallback) const {
  attributes_read_.insert(name);
  const auto found = node.integers.find(name);
  return found == node.integers.end() ? fallback : found->second;
}

double OnnxCall::number(const char* name, double fallback) const {
  attributes_read_.insert(name);
  const auto found = node.numbers.find(name);
  return found == node.numbers.end() ? fallback : static_cast<double>(found->second);
}

std::vector<int64_t> OnnxCall::list(const char* name) const {
  attributes_read_.insert(name);
  const auto found = node.lists.find(name);
  return found == node.lists.end() ? std::vector<int64_t>{} : found->second;
}

void OnnxCall::need_all_read() const {
  const auto check = [&](const auto& attributes) {
    for (const auto& [name, value] : attributes)
      if (!attributes_read_.contains(name))
        fail_graph(label_of(node), "it has the attribute '" + name + "', which export does not write");
  };
  check(node.integers), check(node.numbers), check(node.lists);
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i] != nullptr && !inputs_read_.contains(i))
      fail_graph(label_of(node), "it has an input " + std::to_string(i) + ", which export does not give");
}

void OnnxCall::spend(std::span<const int64_t> sizes) const {
  const int64_t work = extent_of(sizes);
  need(work <= work_, "until there, the graph computes more than its weights have need of");
  work_ -= work;
}

int64_t OnnxCall::axis(int64_t given, int64_t axes) const {
  need(given >= -axes && given < axes, "its axis is none of its input's");
  return given < 0 ? given + axes : given;
}

void OnnxCall::need(bool holds, const char* what) const {
  if (!holds) fail_graph(label_of(node), what);
}

OnnxShape common_shape(const OnnxCall& call, const OnnxShape& a, const OnnxShape& b) {
  if (a.size() < b.size()) return common_shape(call, b, a);
  OnnxShape shape = a;
  const size_t before = a.size() - b.size();
  for (size_t i = 0; i < b.size(); ++i) {
    int64_t& size = shape[before + i];
    call.need(size == b[i] || size == 1 || b[i] == 1, "its inputs have shapes that do not go together");
    size = size == 1 ? b[i] : size;
  }
  return shape;
}

OnnxArray broadcast(const OnnxCall& call, const OnnxArray& array, const OnnxShape& shape) {
  call.need(common_shape(call, array.shape, shape) == shape, "its inputs have shapes that do not go together");
  OnnxShape strides(shape.size() - array.shape.size(), 0);
  const OnnxShape own = strides_of(array.shape);
  for (size_t i = 0; i < own.size(); ++i) strides.push_back(array.shape[i] == 1 ? 0 : own[i]);
  return elements_of(array.shape) == elements_of(shape) ? view(array, shape, strides_of(shape))
                                                        : view(array, shape, strides);
}

OnnxArray product(const OnnxCall& call, const OnnxArray& x, int64_t n, const OnnxElement& weight) {
  const int64_t k = x.shape.back(), rows = elements_of(std::span(x.shape).first(x.shape.size() - 1));
  const std::vector<double> left = call.values(view(x, {k, rows}, {1, k}));  // what one weight is multiplied with
  OnnxShape shape = x.shape;
  shape.back() = n;
  std::vector<double> out = room_for(shape);
  call.spend(std::array{rows, k, n});
  call.threads.run_ranges(n, 16, [&](int64_t first, int64_t last) {
    std::vector<double> sums(static_cast<size_t>(rows));
    for (int64_t row = first; row < last; ++row) {
      std::ranges::fill(sums, 0);
      for (int64_t col = 0; col < k; ++col) {
        const double value = weight(row, col), *factors = left.data() + col * rows;
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += factors[i] * value;
      }
      for (int64_t i = 0; i < rows; ++i) out[static_cast<size_t>(i * n + row)] = sums[static_cast<size_t>(i)];
    }
  });
  return stored(kOnnxF32, shape, std::move(out));
}

}  // namespace retort
