#include "export/verify/rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/error.h"

namespace retort {
namespace {

// A binary format of IEEE 754 with so many bits of exponent and mantissa.
template <int kExponent, int kMantissa>
struct Binary {
  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr uint32_t kSign = uint32_t{1} << (kExponent + kMantissa);
  static constexpr uint32_t kInfinity = ((uint32_t{1} << kExponent) - 1) << kMantissa;

  static double power(int exponent) { return std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52); }

  // Of bits without a sign. Infinity is the power of two that follows the largest number, as rounding takes it.
  static double magnitude(uint32_t bits) {
    const uint32_t mantissa = bits & ((1u << kMantissa) - 1);
    const int exponent = static_cast<int>(bits >> kMantissa);
    if (exponent == 0) return mantissa * power(1 - kBias - kMantissa);
    return ((1u << kMantissa) + mantissa) * power(exponent - kBias - kMantissa);
  }

  static float number(uint32_t bits) {
    const uint32_t unsigned_bits = bits & ~kSign;
    double value = magnitude(unsigned_bits);
    if (unsigned_bits == kInfinity) value = std::numeric_limits<double>::infinity();
    if (unsigned_bits > kInfinity) value = std::numeric_limits<double>::quiet_NaN();
    return static_cast<float>((bits & kSign) == 0 ? value : -value);
  }

  // Of what is no NaN.
  static bool has(float value) {
    if (std::isinf(value)) return true;
    const double wanted = std::abs(static_cast<double>(value));
    const int exponent = wanted == 0 ? 1 - kBias : std::max(std::ilogb(wanted), 1 - kBias);
    const double mantissa = wanted * power(kMantissa - exponent);
    return exponent <= kBias && mantissa == std::floor(mantissa);
  }

  static bool is_nearest(float value, uint32_t bits) {
    const uint32_t unsigned_bits = bits & ~kSign;
    if (std::isnan(value) || unsigned_bits > kInfinity) return std::isnan(value) && unsigned_bits > kInfinity;
    if (std::signbit(value) != ((bits & kSign) != 0)) return false;
    if (std::isinf(value)) return unsigned_bits == kInfinity;
    const double wanted = std::abs(static_cast<double>(value)), stored = magnitude(unsigned_bits);
    if (wanted == stored) return true;
    if (wanted < stored) return holds(stored - wanted, wanted - magnitude(unsigned_bits - 1), unsigned_bits);
    return unsigned_bits == kInfinity || holds(wanted - stored, magnitude(unsigned_bits + 1) - wanted, unsigned_bits);
  }

  // The distances of the number and of its neighbour on the other side of the value: exact differences of doubles.
  static bool holds(double distance, double neighbour, uint32_t bits) {
    return distance < neighbour || (distance == neighbour && bits % 2 == 0);
  }

  template <typename Bits>
  static Closeness count(std::span<const float> values, const std::byte* stored) {
    Closeness counts;
    for (size_t i = 0; i < values.size(); ++i) {
      Bits bits;
      std::memcpy(&bits, stored + i * sizeof(Bits), sizeof(Bits));
      if (!is_nearest(values[i], bits))
        ++counts.different;
      else if (!std::isnan(values[i]) && number(bits) != values[i])
        ++counts.rounded;
    }
    return counts;
  }
};

using F32 = Binary<8, 23>;
using F16 = Binary<5, 10>;
using BF16 = Binary<8, 7>;

}  // namespace

float f16_number(uint16_t bits) { return F16::number(bits); }
float bf16_number(uint16_t bits) { return BF16::number(bits); }

bool is_nearest_f16(float value, uint16_t bits) { return F16::is_nearest(value, bits); }

bool has_number(DType type, float value) {
  if (type == DType::kF32 || std::isnan(value)) return true;
  return type == DType::kF16 ? F16::has(value) : BF16::has(value);
}

float number_at(DType type, const std::byte* stored) {
  if (type != DType::kF32) {
    uint16_t bits;
    std::memcpy(&bits, stored, sizeof bits);
    return type == DType::kF16 ? f16_number(bits) : bf16_number(bits);
  }
  float value;
  std::memcpy(&value, stored, sizeof value);
  return value;
}

Closeness closeness_of(DType type, std::span<const float> values, const std::byte* stored) {
  switch (type) {
    case DType::kF32: return F32::count<uint32_t>(values, stored);
    case DType::kF16: return F16::count<uint16_t>(values, stored);
    case DType::kBF16: return BF16::count<uint16_t>(values, stored);
    default: fail("verify", name_of(type), "artifacts hold dense tensors in f32, f16 or bf16 only");
  }
}

}  // namespace retort
