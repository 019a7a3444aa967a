// What the byte layouts have in common: finding and checking parts, bits in words, columns in groups.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/pack/packed_format.h"

namespace retort {

inline const PackedPartView* find_part(std::span<const PackedPartView> parts, std::string_view name) {
  const auto part = std::ranges::find(parts, name, &PackedPartView::name);
  return part == parts.end() ? nullptr : &*part;
}

// As "u8 [16, 32]".
inline std::string describe(DType type, std::span<const int64_t> shape) {
  std::string text(name_of(type));
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? " [" : ", ") + std::to_string(shape[i]);
  return text + (shape.empty() ? " []" : "]");
}

inline size_t size_in_bytes(DType type, std::span<const int64_t> shape) {
  size_t bytes = size_of(type);
  for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
  return bytes;
}

// The part of that name in one of these types; absence, another type or shape, and a wrong number of bytes are errors
// naming `subject`.
inline const PackedPartView& require_part(std::span<const PackedPartView> parts, std::string_view name,
                                          std::initializer_list<DType> dtypes, const std::vector<int64_t>& shape,
                                          std::string_view subject) {
  const PackedPartView* part = find_part(parts, name);
  if (part == nullptr) fail("unpack", subject, "the part '" + std::string(name) + "' is missing");
  const bool right = std::ranges::find(dtypes, part->dtype) != dtypes.end() && std::ranges::equal(part->shape, shape);
  if (!right || part->bytes.size() != size_in_bytes(part->dtype, shape))
    fail("unpack", subject,
         "the part '" + std::string(name) + "' is " + describe(part->dtype, part->shape) + ", and the scheme needs " +
             describe(*dtypes.begin(), shape));
  return *part;
}
inline const PackedPartView& require_part(std::span<const PackedPartView> parts, std::string_view name, DType dtype,
                                          const std::vector<int64_t>& shape, std::string_view subject) {
  return require_part(parts, name, {dtype}, shape, subject);
}

// A copy as values of T: the bytes usually lie in a mapped file and are not aligned.
template <typename T>
std::vector<T> values_of(const PackedPartView& part) {
  std::vector<T> values(part.bytes.size() / sizeof(T));
  std::memcpy(values.data(), part.bytes.data(), values.size() * sizeof(T));
  return values;
}

// A copy of floating-point values of any type as float32.
inline std::vector<float> floats_of(const PackedPartView& part) {
  std::vector<float> values(part.bytes.size() / size_of(part.dtype));
  decode_to_f32(part.dtype, part.bytes, values);
  return values;
}

inline std::vector<float> floats_of(const PackedPart& part) {
  return floats_of(PackedPartView{part.name, part.dtype, part.shape, part.bytes});
}

// Scales of any type that the programs write them in.
inline std::vector<float> require_scales(std::span<const PackedPartView> parts, std::string_view name,
                                         std::initializer_list<int64_t> shape, std::string_view subject) {
  return floats_of(require_part(parts, name, {DType::kF16, DType::kBF16, DType::kF32}, shape, subject));
}

// All zero, to be filled in.
inline PackedPart blank_part(std::string_view name, DType dtype, std::vector<int64_t> shape) {
  UnsetBytes bytes(size_in_bytes(dtype, shape), std::byte{0});
  return {name, dtype, std::move(shape), std::move(bytes)};
}

// The elements of a part, for as long as its bytes stay where they are.
template <typename T>
std::span<T> elements_of(PackedPart& part) {
  return {reinterpret_cast<T*>(part.bytes.data()), part.bytes.size() / sizeof(T)};
}

template <typename T>
PackedPart make_part(std::string_view name, DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {name, dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

// float32 values as `dtype`, f16, bf16 or f32.
inline PackedPart floats_part(std::string_view name, DType dtype, std::vector<int64_t> shape,
                              std::span<const float> values) {
  PackedPart part = blank_part(name, dtype, std::move(shape));
  encode_from_f32(dtype, values, part.bytes);
  return part;
}

// The same numbers as `dtype`.
inline void restate(PackedPart& part, DType dtype) {
  const std::vector<float> values = floats_of(part);
  part = floats_part(part.name, dtype, std::move(part.shape), values);
}

// True when every column lies in the group that its position gives: no activation order.
inline bool groups_in_order(const QuantizedMatrix& m) {
  const int64_t size = m.scheme.group_size(m.cols);
  for (size_t c = 0; c < m.column_group.size(); ++c)
    if (m.column_group[c] != static_cast<int64_t>(c) / size) return false;
  return true;
}

}  // namespace retort
