#include "export/verify/onnx_operators.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace retort {
namespace {

bool is_float(int64_t type) { return type == kOnnxF32 || type == kOnnxF16 || type == kOnnxBF16; }

// Element by element.

template <auto kFunction>
OnnxResults unary(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  call.need(is_float(out.type), "its input is no float");
  out.at = [at = out.at](int64_t i) { return kFunction(at(i)); };
  return {out};
}

OnnxArray combined(const OnnxCall& call, size_t first, int64_t type,
                   const std::function<double(double, double)>& function) {
  const OnnxArray &a = call.in(first), &b = call.in(first + 1);
  call.need(a.type == b.type, "its inputs have different types");
  const OnnxShape shape = common_shape(call, a.shape, b.shape);
  const auto left = broadcast(call, a, shape).at, right = broadcast(call, b, shape).at;
  return {type, shape, [left, right, function](int64_t i) { return function(left(i), right(i)); }};
}

template <auto kFunction>
OnnxResults binary(const OnnxCall& call) {
  return {combined(call, 0, call.in(0).type, kFunction)};
}

template <auto kFunction>
OnnxResults comparison(const OnnxCall& call) {
  return {combined(call, 0, kOnnxBool, kFunction)};
}

OnnxResults divide(const OnnxCall& call) {
  const bool whole = !is_float(call.in(0).type);
  return {
      combined(call, 0, call.in(0).type, [whole](double a, double b) { return whole ? std::trunc(a / b) : a / b; })};
}

OnnxResults bitwise_and(const OnnxCall& call) {
  call.need(!is_float(call.in(0).type), "its inputs are no integers");
  return binary<[](double a, double b) {
    return static_cast<double>(static_cast<int64_t>(a) & static_cast<int64_t>(b));
  }>(call);
}

OnnxResults where(const OnnxCall& call) {
  call.need(call.in(0).type == kOnnxBool, "its condition is no truth value");
  OnnxArray out = combined(call, 1, call.in(1).type, {});
  out.shape = common_shape(call, call.in(0).shape, out.shape);
  const auto condition = broadcast(call, call.in(0), out.shape).at;
  const auto yes = broadcast(call, call.in(1), out.shape).at, no = broadcast(call, call.in(2), out.shape).at;
  out.at = [=](int64_t i) { return condition(i) != 0 ? yes(i) : no(i); };
  return {out};
}

OnnxResults cast(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  const bool whole = is_float(out.type);
  out.type = call.attribute("to", 0);
  if (out.type == kOnnxF32) return {out};
  call.need(out.type == kOnnxI32 || out.type == kOnnxI64 || out.type == kOnnxBool, "it makes an unexpected type");
  const bool truth = out.type == kOnnxBool;
  out.at = [=, at = out.at](int64_t i) { return truth ? at(i) != 0 : whole ? std::trunc(at(i)) : at(i); };
  return {out};
}

// Shapes.

OnnxResults identity(const OnnxCall& call) { return {call.in(0)}; }

OnnxResults shape_of(const OnnxCall& call) {
  const OnnxShape& shape = call.in(0).shape;
  const auto axes = static_cast<int64_t>(shape.size());
  const auto clamped = [&](int64_t at) { return std::clamp(at < 0 ? at + axes : at, int64_t{0}, axes); };
  const int64_t begin = clamped(call.attribute("start", 0)), end = clamped(call.attribute("end", axes));
  std::vector<double> sizes;
  for (int64_t i = begin; i < end; ++i) sizes.push_back(static_cast<double>(shape[static_cast<size_t>(i)]));
  const auto count = static_cast<int64_t>(sizes.size());
  return {stored(kOnnxI64, {count}, std::move(sizes))};
}

OnnxArray in_shape(const OnnxCall& call, const OnnxShape& shape) {
  OnnxArray out = call.in(0);
  call.need(elements_of(shape) == elements_of(out.shape), "its input has another number of elements");
  out.shape = shape;
  return out;
}

// 0 keeps a size, -1 stands for what is left.
OnnxResults reshape(const OnnxCall& call) {
  const OnnxShape& from = call.in(0).shape;
  OnnxShape shape = call.integers(1);
  for (size_t i = 0; i < shape.size(); ++i) {
    call.need(shape[i] != 0 || i < from.size(), "it asks for an impossible shape");
    if (shape[i] == 0) shape[i] = from[i];
  }
  if (const auto open = std::ranges::find(shape, -1); open != shape.end()) {
    *open = 1;
    const int64_t given = elements_of(shape);
    *open = given == 0 ? 0 : elements_of(from) / given;
  }
  return {in_shape(call, shape)};
}

OnnxResults unsqueeze(const OnnxCall& call) {
  const OnnxShape& from = call.in(0).shape;
  const std::vector<int64_t> axes = call.integers(1);
  OnnxShape shape(from.size() + axes.size(), 0);
  for (const int64_t axis : axes) shape[static_cast<size_t>(call.axis(axis, static_cast<int64_t>(shape.size())))] = 1;
  call.need(std::ranges::count(shape, 1) == static_cast<int64_t>(axes.size()), "it names an axis twice");
  for (size_t i = 0, next = 0; i < shape.size(); ++i)
    if (shape[i] == 0) shape[i] = from[next++];
  return {in_shape(call, shape)};
}

OnnxResults squeeze(const OnnxCall& call) {
  OnnxShape shape = call.in(0).shape;
  const std::vector<int64_t> axes = call.integers(1);
  call.need(axes.size() == 1, "it does not name one axis");
  const int64_t axis = call.axis(axes.front(), call.in(0).axes());
  shape.erase(shape.begin() + axis);
  return {in_shape(call, shape)};
}

OnnxResults transpose(const OnnxCall& call) {
  const OnnxArray& x = call.in(0);
  const std::vector<int64_t> order = call.list("perm");
  call.need(order.size() == x.shape.size(), "its order names other axes");
  const OnnxShape own = strides_of(x.shape);
  std::vector<bool> seen(own.size());
  OnnxShape shape, strides;
  for (const int64_t given : order) {
    const auto axis = static_cast<size_t>(call.axis(given, x.axes()));
    call.need(!seen[axis], "its order names an axis twice");
    seen[axis] = true;
    shape.push_back(x.shape[axis]);
    strides.push_back(own[axis]);
  }
  return {view(x, shape, strides)};
}

OnnxResults expand(const OnnxCall& call) {
  return {broadcast(call, call.in(0), common_shape(call, call.in(0).shape, call.integers(1)))};
}

// Columns [begin, end) of an axis.
OnnxArray part_of(const OnnxArray& x, int64_t axis, int64_t begin, int64_t end) {
  OnnxShape shape = x.shape;
  const OnnxShape strides = strides_of(x.shape);
  shape[static_cast<size_t>(axis)] = end - begin;
  return view(x, shape, strides, begin * strides[static_cast<size_t>(axis)]);
}

OnnxResults slice(const OnnxCall& call) {
  const OnnxArray& x = call.in(0);
  const auto begins = call.integers(1), ends = call.integers(2), axes = call.integers(3);
  call.need(begins.size() == 1 && ends.size() == 1 && axes.size() == 1 && !call.has(4), "it cuts more than one axis");
  const int64_t axis = call.axis(axes.front(), x.axes()), size = x.shape[static_cast<size_t>(axis)];
  const auto clamped = [&](int64_t at) { return std::clamp(at < 0 ? at + size : at, int64_t{0}, size); };
  const int64_t begin = clamped(begins.front());
  return {part_of(x, axis, begin, std::max(begin, clamped(ends.front())))};
}

OnnxResults split(const OnnxCall& call) {
  const OnnxArray& x = call.in(0);
  const int64_t axis = call.axis(call.attribute("axis", 0), x.axes()), parts = call.attribute("num_outputs", 0);
  const int64_t size = x.shape[static_cast<size_t>(axis)];
  call.need(parts == static_cast<int64_t>(call.node.outputs.size()) && parts > 0 && size % parts == 0,
            "its parts are not equal");
  OnnxResults out;
  for (int64_t i = 0; i < parts; ++i) out.push_back(part_of(x, axis, size / parts * i, size / parts * (i + 1)));
  return out;
}

struct Around {  // of an axis: elements before and behind it
  int64_t before, size, behind;
};

Around around(const OnnxShape& shape, int64_t axis) {
  const std::span all(shape);
  const auto at = static_cast<size_t>(axis);
  return {elements_of(all.first(at)), shape[at], elements_of(all.subspan(at + 1))};
}

OnnxResults concat(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  const int64_t axis = call.axis(call.attribute("axis", 0), out.axes());
  const auto at = static_cast<size_t>(axis);
  out.shape[at] = 0;
  std::vector<std::pair<int64_t, std::function<double(int64_t)>>> parts;
  for (size_t i = 0; i < call.inputs.size(); ++i) {
    const OnnxArray& part = call.in(i);
    call.need(part.shape.size() == out.shape.size() && part.type == out.type, "its inputs do not go together");
    OnnxShape whole = part.shape;
    whole[at] = out.shape[at];
    call.need(whole == out.shape, "its inputs have shapes that do not go together");
    out.shape[at] += part.shape[at];
    parts.emplace_back(part.shape[at], part.at);
  }
  out.at = [parts, place = around(out.shape, axis)](int64_t i) {
    int64_t along = i / place.behind % place.size;
    size_t part = 0;
    while (along >= parts[part].first) along -= parts[part++].first;
    const int64_t row = i / place.behind / place.size;
    return parts[part].second((row * parts[part].first + along) * place.behind + i % place.behind);
  };
  return {out};
}

OnnxResults gather(const OnnxCall& call) {
  const OnnxArray& x = call.in(0);
  call.need(call.attribute("axis", 0) == 0 && !x.shape.empty(), "it does not choose rows");
  std::vector<int64_t> rows = call.integers(1);
  for (int64_t& row : rows) row = call.axis(row, x.shape[0]);
  OnnxShape shape = call.in(1).shape;
  shape.insert(shape.end(), x.shape.begin() + 1, x.shape.end());
  const int64_t behind = around(x.shape, 0).behind;
  const auto at = [rows, behind, at = x.at](int64_t i) {
    return at(rows[static_cast<size_t>(i / behind)] * behind + i % behind);
  };
  return {{x.type, shape, at}};
}

OnnxResults range(const OnnxCall& call) {
  const auto begin = call.integers(0), end = call.integers(1), step = call.integers(2);
  call.need(call.in(0).type == kOnnxI64 && begin.size() == 1 && end.size() == 1 && step == std::vector<int64_t>{1},
            "it does not count by one");
  std::vector<double> values;
  constexpr int64_t kFar = 1 << 20;
  call.need(std::abs(begin.front()) < kFar && std::abs(end.front()) < kFar, "it counts farther than a few tokens need");
  for (int64_t i = begin.front(); i < end.front(); ++i) values.push_back(static_cast<double>(i));
  const auto count = static_cast<int64_t>(values.size());
  return {stored(kOnnxI64, {count}, std::move(values))};
}

// Along axes.

// Which axes are reduced: those of the input, or all.
std::vector<bool> reduced_axes(const OnnxCall& call) {
  const OnnxArray& x = call.in(0);
  std::vector<bool> reduced(x.shape.size(), !call.has(1));
  if (call.has(1))
    for (const int64_t axis : call.integers(1)) reduced[static_cast<size_t>(call.axis(axis, x.axes()))] = true;
  return reduced;
}

template <auto kCombine>
OnnxArray reduced(const OnnxCall& call, double start) {
  const OnnxArray& x = call.in(0);
  const std::vector<bool> gone = reduced_axes(call);
  OnnxShape kept = x.shape, shape;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (gone[i]) kept[i] = 1;
    if (!gone[i] || call.attribute("keepdims", 1) != 0) shape.push_back(kept[i]);
  }
  OnnxShape strides = strides_of(kept);
  for (size_t i = 0; i < kept.size(); ++i) strides[i] = gone[i] ? 0 : strides[i];
  const OnnxArray places = view({kOnnxI64, {}, [](int64_t i) { return static_cast<double>(i); }}, x.shape, strides);
  const std::vector<double> values = call.values(x);
  std::vector<double> out = room_for(kept, start);
  for (size_t i = 0; i < values.size(); ++i) {
    double& place = out[static_cast<size_t>(places.at(static_cast<int64_t>(i)))];
    place = kCombine(place, values[i]);
  }
  return stored(x.type, shape, std::move(out));
}

OnnxResults reduce_max(const OnnxCall& call) {
  return {reduced<[](double a, double b) { return std::max(a, b); }>(call, std::numeric_limits<double>::lowest())};
}

OnnxResults reduce_mean(const OnnxCall& call) {
  OnnxArray out = reduced<[](double a, double b) { return a + b; }>(call, 0);
  const double each = static_cast<double>(elements_of(call.in(0).shape)) / static_cast<double>(elements_of(out.shape));
  out.at = [at = out.at, each](int64_t i) { return at(i) / each; };
  return {out};
}

OnnxResults softmax(const OnnxCall& call) {
  const OnnxArray& x = call.in(0);
  const auto [before, size, behind] = around(x.shape, call.axis(call.attribute("axis", -1), x.axes()));
  std::vector<double> values = call.values(x);
  for (int64_t line = 0; line < (values.empty() ? 0 : before * behind); ++line) {
    double* first = values.data() + line / behind * size * behind + line % behind;
    double most = std::numeric_limits<double>::lowest(), sum = 0;
    for (int64_t i = 0; i < size; ++i) most = std::max(most, first[i * behind]);
    for (int64_t i = 0; i < size; ++i) sum += first[i * behind] = std::exp(first[i * behind] - most);
    for (int64_t i = 0; i < size; ++i) first[i * behind] /= sum;
  }
  return {stored(x.type, x.shape, std::move(values))};
}

// A matrix on the right, of weights or not; or as many on both sides.
OnnxResults multiply(const OnnxCall& call) {
  const OnnxArray &a = call.in(0), &b = call.in(1);
  call.need(a.type == kOnnxF32 && b.type == kOnnxF32, "its inputs are not float32");
  call.need(a.axes() >= 2 && b.axes() >= 2, "its inputs are no matrices");
  const int64_t k = b.shape[b.shape.size() - 2], n = b.shape.back();
  call.need(a.shape.back() == k, "its inputs have sizes that do not go together");
  if (b.axes() == 2) return {product(call, a, n, [&](int64_t row, int64_t col) { return b.at(col * n + row); })};
  call.need(
      std::ranges::equal(std::span(a.shape).first(a.shape.size() - 2), std::span(b.shape).first(b.shape.size() - 2)),
      "its inputs have other numbers of matrices");
  const int64_t m = a.shape[a.shape.size() - 2];
  OnnxShape shape = a.shape;
  shape.back() = n;
  std::vector<double> out = room_for(shape);
  for (size_t done = 0; done < out.size(); done += static_cast<size_t>(m * n)) {
    const int64_t i = static_cast<int64_t>(done) / (m * n);
    const OnnxArray left = view(a, {m, k}, {k, 1}, i * m * k);
    const auto right = [&](int64_t row, int64_t col) { return b.at((i * k + col) * n + row); };
    std::ranges::copy(values_of(product(call, left, n, right)), out.begin() + static_cast<std::ptrdiff_t>(done));
  }
  return {stored(kOnnxF32, shape, std::move(out))};
}

// In blocks along the first of two axes.
OnnxResults dequantize(const OnnxCall& call) {
  const OnnxArray &codes = call.in(0), &scales = call.in(1);
  const int64_t block = call.attribute("block_size", 0);
  call.need(codes.axes() == 2 && block > 0 && call.attribute("axis", 1) == 0, "it is not in blocks of a matrix");
  const int64_t n = codes.shape[1], blocks = (codes.shape[0] - 1) / block + 1;
  call.need(scales.shape == OnnxShape{blocks, n} && scales.type == kOnnxF32, "its scales are not one for each block");
  OnnxArray out{kOnnxF32, codes.shape, {}};
  out.at = [=, code = codes.at, scale = scales.at](int64_t i) { return code(i) * scale(i / n / block * n + i % n); };
  if (!call.has(2)) return {out};
  const OnnxArray& zeros = call.in(2);
  call.need(zeros.shape == scales.shape && zeros.type == codes.type, "its zero points are not one for each block");
  out.at = [=, code = codes.at, scale = scales.at, zero = zeros.at](int64_t i) {
    const int64_t at = i / n / block * n + i % n;
    return (code(i) - zero(at)) * scale(at);
  };
  return {out};
}

constexpr OnnxOperator kOperators[] = {
    {"Add", binary<[](double a, double b) { return a + b; }>},
    {"And", binary<[](double a, double b) { return static_cast<double>(a != 0 && b != 0); }>},
    {"BitwiseAnd", bitwise_and},
    {"Cast", cast},
    {"Concat", concat},
    {"Cos", unary<[](double x) { return std::cos(x); }>},
    {"DequantizeLinear", dequantize},
    {"Div", divide},
    {"Expand", expand},
    {"Gather", gather, true},
    {"GreaterOrEqual", comparison<[](double a, double b) { return static_cast<double>(a >= b); }>},
    {"Identity", identity},
    {"Less", comparison<[](double a, double b) { return static_cast<double>(a < b); }>},
    {"MatMul", multiply, true},
    {"Mul", binary<[](double a, double b) { return a * b; }>},
    {"Pow", binary<[](double a, double b) { return std::pow(a, b); }>},
    {"Range", range, true},
    {"ReduceMax", reduce_max, true},
    {"ReduceMean", reduce_mean, true},
    {"Reshape", reshape},
    {"Shape", shape_of, true},
    {"Sigmoid", unary<[](double x) { return 1 / (1 + std::exp(-x)); }>},
    {"Sin", unary<[](double x) { return std::sin(x); }>},
    {"Slice", slice},
    {"Softmax", softmax, true},
    {"Split", split},
    {"Sqrt", unary<[](double x) { return std::sqrt(x); }>},
    {"Squeeze", squeeze},
    {"Sub", binary<[](double a, double b) { return a - b; }>},
    {"Transpose", transpose},
    {"Unsqueeze", unsqueeze},
    {"Where", where},
};

}  // namespace

std::span<const OnnxOperator> standard_operators() { return kOperators; }

}  // namespace retort
