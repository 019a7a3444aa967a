#include "model/single_pass.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/lanes.h"

namespace retort {
namespace {

// Rows of a tensor's type as float32: where they lie, or by way of a buffer.
const float* widened(const float* row, int64_t, float*) { return row; }
const float* widened(const at::BFloat16* row, int64_t size, float* buffer) {
  const auto count = static_cast<size_t>(size);
  decode_to_f32(DType::kBF16, std::as_bytes(std::span(row, count)), {buffer, count});
  return buffer;
}

// Where a row is computed, and how it gets to its place.
float* place_of(float* row, float*) { return row; }
float* place_of(at::BFloat16*, float* buffer) { return buffer; }
void store(const float*, int64_t, float*) {}
void store(const float* values, int64_t size, at::BFloat16* row) {
  const auto count = static_cast<size_t>(size);
  encode_from_f32(DType::kBF16, {values, count}, std::as_writable_bytes(std::span(row, count)));
}

// As a stored tensor of type T has them.
void round_to_type(float*, int64_t, const float*) {}
void round_to_type(float* values, int64_t size, const at::BFloat16*) {
  for (int64_t i = 0; i < size; ++i) values[i] = bf16_to_f32(f32_to_bf16(values[i]));
}

typedef int32_t LaneBits __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(4)));

const Lanes& lanes(const float* values) { return *reinterpret_cast<const Lanes*>(values); }
Lanes& lanes(float* values) { return *reinterpret_cast<Lanes*>(values); }

RETORT_EACH_ISA float sum_of_squares(const float* row, int64_t size) {
  Lanes sums = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) sums += lanes(row + i) * lanes(row + i);
  float sum = 0;
  for (; i < size; ++i) sum += row[i] * row[i];
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

RETORT_EACH_ISA void scale_row(const float* row, float factor, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = row[i] * factor;
}

RETORT_EACH_ISA void multiply_rows(const float* a, const float* b, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = a[i] * b[i];
}

// x becomes e^x: 2^n times a polynomial of what is left, at most half of ln 2 (Taylor, relative error below 2^-22).
RETORT_INLINE void exponentiate(Lanes& x) {
  x = x < -87.0f ? Lanes{} - 87.0f : x;
  x = x > 88.0f ? Lanes{} + 88.0f : x;
  const Lanes shifted = x * 1.44269504f + kRound, n = shifted - kRound;  // n is in the low bits of `shifted` too
  const Lanes rest = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts: n times the first is exact
  const Lanes low = ((1.0f / 720 * rest + 1.0f / 120) * rest + 1.0f / 24) * rest + 1.0f / 6;
  const Lanes sum = ((low * rest + 0.5f) * rest + 1.0f) * rest + 1.0f;
  x = (Lanes)((LaneBits)sum + ((LaneBits)shifted << 23));
}

RETORT_INLINE void silu(Lanes& x) {
  Lanes power = -x;
  exponentiate(power);
  x /= 1.0f + power;
}

RETORT_EACH_ISA void silu_row(const float* row, int64_t size, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    Lanes x = lanes(row + i);
    silu(x);
    lanes(out + i) = x;
  }
  Lanes rest = {};
  std::copy(row + i, row + size, reinterpret_cast<float*>(&rest));
  silu(rest);
  std::copy_n(reinterpret_cast<const float*>(&rest), size - i, out + i);
}

RETORT_EACH_ISA void rotate_row(const float* row, const float* cosine, const float* sine, int64_t half, float* out) {
  for (int64_t i = 0; i < half; ++i) {
    const float low = row[i], high = row[half + i];
    out[i] = low * cosine[i] - high * sine[i];
    out[half + i] = high * cosine[i] + low * sine[i];
  }
}

template <typename In, typename Out>
void norm_rows(const In* input, const Out* gain, int64_t rows, int64_t size, float eps, Out* result) {
  std::vector<float> wide(static_cast<size_t>(size)), gains(wide.size()), narrow(wide.size());
  const float* factors = widened(gain, size, gains.data());
  for (int64_t row = 0; row < rows; ++row, input += size, result += size) {
    const float* values = widened(input, size, wide.data());
    float* out = place_of(result, narrow.data());
    const float mean = sum_of_squares(values, size) / static_cast<float>(size);
    scale_row(values, 1.0f / std::sqrt(mean + eps), size, out);
    round_to_type(out, size, result);
    multiply_rows(out, factors, size, out);
    store(out, size, result);
  }
}

template <typename T>
void gate_rows(const T* gate, const T* up, int64_t rows, int64_t size, T* result) {
  std::vector<float> gates(static_cast<size_t>(size)), ups(gates.size()), narrow(gates.size());
  for (int64_t row = 0; row < rows; ++row, gate += size, up += size, result += size) {
    float* out = place_of(result, narrow.data());
    silu_row(widened(gate, size, gates.data()), size, out);
    round_to_type(out, size, result);
    multiply_rows(out, widened(up, size, ups.data()), size, out);
    store(out, size, result);
  }
}

template <typename T>
void rotate_heads(const at::Tensor& states, const at::Tensor& cosine, const at::Tensor& sine, at::Tensor& result) {
  const int64_t heads = states.size(1), tokens = states.size(2), size = states.size(3);
  const at::Tensor cosines = cosine.to(at::kFloat), sines = sine.to(at::kFloat);
  std::vector<float> wide(static_cast<size_t>(size)), narrow(wide.size());
  T* out = result.mutable_data_ptr<T>();
  for (int64_t head = 0; head < states.size(0) * heads; ++head)
    for (int64_t token = 0; token < tokens; ++token, out += size) {
      const T* row = states.const_data_ptr<T>() + head / heads * states.stride(0) + head % heads * states.stride(1) +
                     token * states.stride(2);
      float* rotated = place_of(out, narrow.data());
      rotate_row(widened(row, size, wide.data()), cosines.const_data_ptr<float>() + token * size / 2,
                 sines.const_data_ptr<float>() + token * size / 2, size / 2, rotated);
      store(rotated, size, out);
    }
}

// Calls `work` with a value of the tensor's type.
template <typename Work>
void by_type(const at::Tensor& tensor, const Work& work) {
  if (tensor.scalar_type() == at::kBFloat16)
    work(at::BFloat16{});
  else
    work(float{});
}

}  // namespace

bool in_single_pass(const at::Tensor& states) {
  const at::ScalarType type = states.scalar_type();
  return states.is_cpu() && (type == at::kFloat || type == at::kBFloat16) && states.stride(-1) == 1 &&
         !at::GradMode::is_enabled();
}

at::Tensor norm_in_single_pass(const at::Tensor& input, const at::Tensor& gain, double eps) {
  const at::Tensor rows = input.contiguous();
  const int64_t size = gain.numel();
  at::Tensor result = at::empty(input.sizes(), gain.options());
  by_type(input, [&](auto in) {
    by_type(gain, [&](auto out) {
      norm_rows(rows.const_data_ptr<decltype(in)>(), gain.const_data_ptr<decltype(out)>(), rows.numel() / size, size,
                static_cast<float>(eps), result.mutable_data_ptr<decltype(out)>());
    });
  });
  return result;
}

at::Tensor gate_in_single_pass(const at::Tensor& gate, const at::Tensor& up) {
  const at::Tensor gates = gate.contiguous(), ups = up.contiguous();
  const int64_t size = gate.size(-1);
  at::Tensor result = at::empty(gate.sizes(), gate.options());
  by_type(gate, [&](auto type) {
    using T = decltype(type);
    gate_rows(gates.const_data_ptr<T>(), ups.const_data_ptr<T>(), gates.numel() / size, size,
              result.mutable_data_ptr<T>());
  });
  return result;
}

at::Tensor rotate_in_single_pass(const at::Tensor& states, const at::Tensor& cosine, const at::Tensor& sine) {
  at::Tensor result = at::empty(states.sizes(), states.options());
  by_type(states, [&](auto type) { rotate_heads<decltype(type)>(states, cosine, sine, result); });
  return result;
}

}  // namespace retort
