// What stored numbers are, and whether they are the nearest to those of a model, told without the conversions that
// writers use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/dtype.h"

namespace retort {

// Whether no number of the binary format is nearer to `value` than the one of these bits, and of two that are equally
// near it is the even one (IEEE 754, 4.3.1); zeros have the sign of the value, and a NaN is any NaN.
bool is_nearest_f16(float value, uint16_t bits);
// The number of these bits.
float f16_number(uint16_t bits);
float bf16_number(uint16_t bits);
// Whether the type has this number.
bool has_number(DType type, float value);
// The numbers of these bytes, little-endian f32, f16 or bf16.
float number_at(DType type, const std::byte* stored);
// How many of `stored`, little-endian f32, f16 or bf16, are not the nearest, and how many are, but another number: a
// type that is too narrow rounded them. Sizes must match.
struct Closeness {
  int64_t different = 0, rounded = 0;
};
Closeness closeness_of(DType type, std::span<const float> values, const std::byte* stored);

}  // namespace retort
