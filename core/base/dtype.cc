#include "core/base/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/base/error.h"
#include "core/base/isa.h"

namespace retort {
namespace {

struct TypeRow {
  DType type;
  size_t size;
  std::string_view name, safetensors;
  bool floating;
};

constexpr std::array kTypes{
    TypeRow{DType::kF64, 8, "f64", "F64", true},  TypeRow{DType::kF32, 4, "f32", "F32", true},
    TypeRow{DType::kF16, 2, "f16", "F16", true},  TypeRow{DType::kBF16, 2, "bf16", "BF16", true},
    TypeRow{DType::kI64, 8, "i64", "I64", false}, TypeRow{DType::kI32, 4, "i32", "I32", false},
    TypeRow{DType::kI16, 2, "i16", "I16", false}, TypeRow{DType::kI8, 1, "i8", "I8", false},
    TypeRow{DType::kU8, 1, "u8", "U8", false},    TypeRow{DType::kBool, 1, "bool", "BOOL", false},
    TypeRow{DType::kU32, 4, "u32", "U32", false},
};

const TypeRow& row(DType type) { return kTypes[static_cast<size_t>(type)]; }

template <typename T, typename Convert>
inline void decode_as(std::span<const std::byte> bytes, std::span<float> out, Convert convert) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

template <typename Convert>
inline void encode_as(std::span<const float> values, std::span<std::byte> out, Convert convert) {
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = convert(values[i]);
    std::memcpy(out.data() + i * 2, &bits, 2);
  }
}

// Without branches, so that loops over it become vectors.
inline float widen_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  // Moving the fields up and scaling by 2^112 handles subnormals without a branch on them.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const uint32_t infinite = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | infinite | sign);
}

inline uint16_t narrow_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  // Subnormal in f16: float addition does the rounding.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  half = magnitude < 0x38800000u ? subnormal : half;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return static_cast<uint16_t>(sign | half);
}

inline uint16_t narrow_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

RETORT_EACH_ISA void decode_f16(std::span<const std::byte> bytes, std::span<float> out) {
  decode_as<uint16_t>(bytes, out, widen_f16);
}
RETORT_EACH_ISA void decode_bf16(std::span<const std::byte> bytes, std::span<float> out) {
  decode_as<uint16_t>(bytes, out, bf16_to_f32);
}
RETORT_EACH_ISA void encode_f16(std::span<const float> values, std::span<std::byte> out) {
  encode_as(values, out, narrow_f16);
}
RETORT_EACH_ISA void encode_bf16(std::span<const float> values, std::span<std::byte> out) {
  encode_as(values, out, narrow_bf16);
}

}  // namespace

size_t size_of(DType type) { return row(type).size; }
std::string_view name_of(DType type) { return row(type).name; }
std::string_view safetensors_name(DType type) { return row(type).safetensors; }
bool is_float(DType type) { return row(type).floating; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (const TypeRow& r : kTypes)
    if (r.name == name) return r.type;
  return std::nullopt;
}

std::optional<DType> parse_safetensors_dtype(std::string_view name) {
  for (const TypeRow& r : kTypes)
    if (r.safetensors == name) return r.type;
  return std::nullopt;
}

float f16_to_f32(uint16_t bits) { return widen_f16(bits); }
uint16_t f32_to_f16(float value) { return narrow_f16(value); }
uint16_t f32_to_bf16(float value) { return narrow_bf16(value); }

RETORT_EACH_ISA bool all_f16(std::span<const float> values) {
  uint32_t other = 0;
  for (const float value : values)
    other |= std::bit_cast<uint32_t>(widen_f16(narrow_f16(value))) ^ std::bit_cast<uint32_t>(value);
  return other == 0;
}

RETORT_EACH_ISA bool all_finite(std::span<const float> values) {
  uint32_t largest = 0;  // floats without a sign are ordered as their bits are
  for (const float value : values) largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  return largest < 0x7f800000u;
}

void decode_to_f32(DType type, std::span<const std::byte> bytes, std::span<float> out) {
  if (bytes.size() != out.size() * size_of(type))
    fail("decode", name_of(type), "the number of bytes does not match the number of elements");
  const auto as_float = [](auto v) { return static_cast<float>(v); };
  switch (type) {
    case DType::kF32: std::memcpy(out.data(), bytes.data(), bytes.size()); return;
    case DType::kF16: return decode_f16(bytes, out);
    case DType::kBF16: return decode_bf16(bytes, out);
    case DType::kF64: return decode_as<double>(bytes, out, as_float);
    case DType::kI64: return decode_as<int64_t>(bytes, out, as_float);
    case DType::kI32: return decode_as<int32_t>(bytes, out, as_float);
    case DType::kU32: return decode_as<uint32_t>(bytes, out, as_float);
    case DType::kI16: return decode_as<int16_t>(bytes, out, as_float);
    case DType::kI8: return decode_as<int8_t>(bytes, out, as_float);
    case DType::kU8:
    case DType::kBool: return decode_as<uint8_t>(bytes, out, as_float);
  }
}

void encode_from_f32(DType type, std::span<const float> values, std::span<std::byte> out) {
  if (out.size() != values.size() * size_of(type))
    fail("encode", name_of(type), "the number of bytes does not match the number of elements");
  if (type == DType::kF32) {
    std::memcpy(out.data(), values.data(), out.size());
    return;
  }
  if (type != DType::kF16 && type != DType::kBF16)
    fail("encode", name_of(type), "float32 values are written as f32, f16 or bf16 only");
  type == DType::kF16 ? encode_f16(values, out) : encode_bf16(values, out);
}

}  // namespace retort
