// Element types of dense tensors, and exact conversions between the floating-point ones.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace retort {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool, kU32 };

size_t size_of(DType type);
std::string_view name_of(DType type);                     // "f32", "bf16", ... as on the command line
std::string_view safetensors_name(DType type);            // "F32", "BF16", ...
std::optional<DType> parse_dtype(std::string_view name);  // by name_of
std::optional<DType> parse_safetensors_dtype(std::string_view name);
bool is_float(DType type);

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);  // round to nearest even; overflow gives infinity
inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
uint16_t f32_to_bf16(float value);  // round to nearest even
// Each is exactly an f16 number or infinite. Of NaNs nothing is said.
bool all_f16(std::span<const float> values);
bool all_finite(std::span<const float> values);

// Decodes `bytes`, elements of any floating-point or integer `type`, into float32. Sizes must match.
void decode_to_f32(DType type, std::span<const std::byte> bytes, std::span<float> out);
// Encodes float32 values as kF32, kF16 or kBF16. Sizes must match.
void encode_from_f32(DType type, std::span<const float> values, std::span<std::byte> out);

}  // namespace retort
