// What verify holds stored numbers to: bits by hand, and the conversion that the writers use.
#include "export/verify/rounding.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/tiny_model.h"

namespace retort {
namespace {

// Values and bits by hand from IEEE 754: 11 bits of precision, 65504 the largest, 2^-24 the smallest.
TEST(Rounding, TellsTheNearestF16) {
  struct Row {
    float value;
    uint16_t bits;
    bool nearest;
  };
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [value, bits, nearest] : {Row{1, 0x3c00, true},
                                             {1, 0x3c01, false},
                                             {-1, 0xbc00, true},
                                             {-1, 0x3c00, false},
                                             {1 + 0x1p-11f, 0x3c00, true},
                                             {1 + 0x1p-11f, 0x3c01, false},
                                             {1 + 0x3p-11f, 0x3c02, true},
                                             {1 + 0x3p-11f, 0x3c01, false},
                                             {1 + 0x1.002p-11f, 0x3c01, true},
                                             {1 - 0x1p-12f, 0x3c00, true},
                                             {1 - 0x1p-12f, 0x3bff, false},
                                             {0x1p-24f, 0x0001, true},
                                             {0x1p-25f, 0x0000, true},
                                             {0x1p-25f, 0x0001, false},
                                             {0x1.8p-25f, 0x0001, true},
                                             {-0x1p-26f, 0x8000, true},
                                             {-0x1p-26f, 0x0000, false},
                                             {0.0f, 0x0000, true},
                                             {0.0f, 0x8000, false},
                                             {65504, 0x7bff, true},
                                             {65519, 0x7bff, true},
                                             {65520, 0x7c00, true},
                                             {65520, 0x7bff, false},
                                             {65519, 0x7c00, false},
                                             {1e30f, 0x7c00, true},
                                             {kInfinity, 0x7c00, true},
                                             {kInfinity, 0x7bff, false},
                                             {-kInfinity, 0x7c00, false},
                                             {kNan, 0x7e00, true},
                                             {kNan, 0x7c00, false},
                                             {1, 0x7e00, false},
                                             {0x1p-14f, 0x0400, true},
                                             {0x1p-14f, 0x03ff, false}})
    EXPECT_EQ(is_nearest_f16(value, bits), nearest) << value << " " << bits;
}

// The writers' conversion gives the nearest of every kind, and its neighbours are not.
TEST(Rounding, TellsTheNearestOfRandomNumbers) {
  testing::Random random(5);
  std::vector<float> values(20000);
  for (float& value : values) value = std::ldexp(random.normal(), static_cast<int>(random.below(60)) - 40);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<std::byte> bytes(values.size() * size_of(type));
    encode_from_f32(type, values, bytes);
    const Closeness written = closeness_of(type, values, bytes.data());
    EXPECT_EQ(written.different, 0) << name_of(type);
    if (type == DType::kF32)
      EXPECT_EQ(written.rounded, 0);
    else
      EXPECT_GT(written.rounded, 19000) << name_of(type);
    for (size_t i = 0; i < bytes.size(); i += size_of(type)) bytes[i] ^= std::byte{1};
    EXPECT_GT(closeness_of(type, values, bytes.data()).different, 19900) << name_of(type);
  }
}

// All of them, as the programs that write them convert.
TEST(Rounding, ReadsEveryNumberOf16Bits) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float half = f16_number(bits), brain = bf16_number(bits);
    EXPECT_EQ(std::isnan(half), std::isnan(f16_to_f32(bits))) << bits;
    EXPECT_EQ(std::isnan(brain), std::isnan(bf16_to_f32(bits))) << bits;
    if (!std::isnan(brain)) {
      EXPECT_EQ(std::bit_cast<uint32_t>(brain), uint32_t{bits} << 16);
    }
    if (std::isnan(half)) continue;
    EXPECT_EQ(std::bit_cast<uint32_t>(half), std::bit_cast<uint32_t>(f16_to_f32(bits))) << bits;
    EXPECT_TRUE(has_number(DType::kF16, half)) << bits;
  }
}

// Of the values that a type has, none is rounded.
TEST(Rounding, TellsEqualFromNearest) {
  const std::vector<float> values{1, 1 + 0x1p-11f, -0.0f, std::numeric_limits<float>::quiet_NaN(), 70000};
  std::vector<std::byte> bytes(values.size() * 2);
  encode_from_f32(DType::kF16, values, bytes);
  const Closeness found = closeness_of(DType::kF16, values, bytes.data());
  EXPECT_EQ(found.different, 0);
  EXPECT_EQ(found.rounded, 2) << "the one between two numbers, and what became infinite";
}

TEST(Rounding, TellsTheNumbersThatATypeLacks) {
  for (const float value : {1 + 0x1p-11f, 0x1p-25f, 0x1.8p-24f, 65505.0f, 65536.0f, 3e38f, -0x1p-149f}) {
    EXPECT_FALSE(has_number(DType::kF16, value)) << value;
    EXPECT_TRUE(has_number(DType::kF32, value)) << value;
  }
  EXPECT_FALSE(has_number(DType::kBF16, 1 + 0x1p-8f));
}

}  // namespace
}  // namespace retort
