// The layouts of GPTQ and AWQ checkpoints, of MLX and of MatMulNBits: words written by hand from their descriptions,
// and round trips.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/base/error.h"
#include "core/pack/formats.h"
#include "core/pack/matmulnbits.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

QuantizedMatrix counting(const char* scheme, int64_t rows, int64_t cols) {
  QuantizedMatrix m = make_quantized(parse_scheme(scheme), rows, cols);
  for (size_t i = 0; i < m.codes.size(); ++i) m.codes[i] = static_cast<uint8_t>(i & m.scheme.max_code());
  for (size_t i = 0; i < m.scales.size(); ++i) m.scales[i] = 1.0f + static_cast<float>(i) / 64;
  return m;
}

QuantizedMatrix random_matrix(const char* scheme, int64_t rows, int64_t cols) {
  QuantizedMatrix m = counting(scheme, rows, cols);
  std::mt19937 random(1);
  for (auto& code : m.codes) code = static_cast<uint8_t>(random() & m.scheme.max_code());
  for (auto& zero : m.zeros) zero = static_cast<uint8_t>(random() & m.scheme.max_code());
  for (auto& minimum : m.minima) minimum = static_cast<float>(random() % 2048) / 64 - 16;
  if (m.scheme.granularity == Granularity::kTensor) std::fill(m.scales.begin(), m.scales.end(), m.scales[0]);
  return m;
}

template <typename T>
std::vector<T> part_values(const std::vector<PackedPart>& parts, std::string_view name) {
  for (const PackedPart& part : parts)
    if (part.name == name) return values_of<T>({part.name, part.dtype, part.shape, part.bytes});
  return {};
}

std::vector<PackedPartView> views(const std::vector<PackedPart>& parts) {
  std::vector<PackedPartView> out;
  for (const PackedPart& part : parts) out.push_back({part.name, part.dtype, part.shape, part.bytes});
  return out;
}

void expect_round_trip(const PackedFormat& format, const QuantizedMatrix& m) {
  ASSERT_EQ(format.refuses(m), "");
  const auto parts = format.pack(m);
  const QuantizedMatrix back = format.unpack(m.scheme, m.rows, m.cols, views(parts), "test");
  EXPECT_EQ(back.codes, m.codes);
  EXPECT_EQ(back.scales, m.scales);
  EXPECT_EQ(back.zeros, m.zeros);
  EXPECT_EQ(back.minima, m.minima);
  EXPECT_EQ(back.column_group, m.column_group);
}

TEST(Gptq, PacksCodesAlongTheInputLowBitsFirst) {
  const auto parts = kGptqV1Format.pack(counting("int4-g8-sym", 8, 8));
  EXPECT_EQ(part_values<uint32_t>(parts, "qweight"),
            std::vector<uint32_t>(
                {0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98}));
  EXPECT_THAT(part_values<uint32_t>(parts, "qzeros"), ElementsAre(0x77777777));
  EXPECT_THAT(part_values<uint32_t>(kGptqV2Format.pack(counting("int4-g8-sym", 8, 8)), "qzeros"),
              ElementsAre(0x88888888));
  EXPECT_THAT(part_values<int32_t>(parts, "g_idx"), ElementsAre(0, 0, 0, 0, 0, 0, 0, 0));
}

TEST(Gptq, Packs3BitCodesAcrossWords) {
  QuantizedMatrix m = make_quantized(parse_scheme("int3-g32-sym"), 32, 32);
  m.codes[10] = 7;  // bits 30 to 32 of row 0's stream
  m.codes[21] = 5;  // bits 63 to 65
  const auto words = part_values<uint32_t>(kGptqV1Format.pack(m), "qweight");
  EXPECT_EQ(words[0], 0xC0000000u);
  EXPECT_EQ(words[32], 0x80000001u);
  EXPECT_EQ(words[64], 0x2u);
}

TEST(Gptq, KeepsEveryIntegerOfEveryWidth) {
  for (const char* scheme :
       {"int2-g32-sym", "int3-g32-sym", "int4-g32-sym", "int4-channel-sym", "int8-g64-sym", "q4_0"})
    expect_round_trip(kGptqV1Format, random_matrix(scheme, 96, 128));
  for (const char* scheme : {"int2-g32-asym", "int3-g64-asym", "int4-g128-asym", "int8-channel-asym", "int4-g32-sym"})
    expect_round_trip(kGptqV2Format, random_matrix(scheme, 96, 128));
}

TEST(Gptq, KeepsActivationOrder) {
  QuantizedMatrix m = random_matrix("int4-g32-sym", 8, 64);
  for (int32_t c = 0; c < 64; ++c) m.column_group.push_back(c % 2);
  expect_round_trip(kGptqV1Format, m);
}

TEST(Gptq, RefusesWhatItCannotHold) {
  EXPECT_THAT(kGptqV1Format.refuses(random_matrix("int4-g32-asym", 8, 64)), HasSubstr("asymmetric"));
  EXPECT_THAT(kGptqV1Format.refuses(random_matrix("int4-channel-sym", 8, 172)), HasSubstr("172 columns"));
  EXPECT_THAT(kGptqV1Format.refuses(random_matrix("int4-channel-sym", 12, 64)), HasSubstr("12 rows"));
}

TEST(Gptq, UnpackChecksWhatItReads) {
  const QuantizedMatrix m = random_matrix("int4-g32-sym", 8, 64);
  auto parts = kGptqV1Format.pack(m);
  const auto unpack = [&](int64_t cols) { return kGptqV1Format.unpack(m.scheme, 8, cols, views(parts), "w"); };
  EXPECT_THROW(unpack(128), Error);
  parts[1].bytes[0] = std::byte{0x78};
  EXPECT_THROW(unpack(64), Error);  // a zero point that is not the middle
  parts[1].bytes[0] = std::byte{0x77};
  parts[3].bytes[0] = std::byte{2};
  EXPECT_THROW(unpack(64), Error);  // a group that does not exist
  parts.pop_back();
  EXPECT_NO_THROW(unpack(64));  // without g_idx the groups are in order
  parts.pop_back();
  EXPECT_THROW(unpack(64), Error);
}

TEST(Awq, PacksCodesAlongTheOutputInItsOrder) {
  QuantizedMatrix m = make_quantized(parse_scheme("int4-g8-sym"), 16, 8);
  for (int64_t r = 0; r < 16; ++r)
    for (int64_t c = 0; c < 8; ++c) m.codes[static_cast<size_t>(r * 8 + c)] = static_cast<uint8_t>(r < 8 ? r : c);
  const auto parts = kAwqFormat.pack(m);
  const auto words = part_values<uint32_t>(parts, "qweight");
  ASSERT_EQ(words.size(), 16u);
  for (size_t c = 0; c < 8; ++c) {
    EXPECT_EQ(words[2 * c], 0x75316420u);
    EXPECT_EQ(words[2 * c + 1], 0x11111111u * c);
  }
  EXPECT_THAT(part_values<uint32_t>(parts, "qzeros"), ElementsAre(0x88888888, 0x88888888));
}

TEST(Awq, PacksZerosAlongTheOutputAndScalesByGroup) {
  QuantizedMatrix m = counting("int4-g8-asym", 8, 16);
  for (size_t i = 0; i < m.zeros.size(); ++i) m.zeros[i] = static_cast<uint8_t>(i / 2 + (i % 2) * 8);
  const auto parts = kAwqFormat.pack(m);
  EXPECT_THAT(part_values<uint32_t>(parts, "qzeros"), ElementsAre(0x75316420, 0xFDB9ECA8));
  const auto scales = part_values<uint16_t>(parts, "scales");
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(f16_to_f32(scales[i]), m.scales[i % 8 * 2 + i / 8]) << i;
}

TEST(Awq, KeepsEveryInteger) {
  for (const char* scheme : {"int4-g128-sym", "int4-g32-asym", "int4-channel-asym", "q4_0"}) {
    expect_round_trip(kAwqFormat, random_matrix(scheme, 96, 128));
    expect_round_trip(kAwqFormat, random_matrix(scheme, 136, 256));
  }
}

TEST(Awq, ReadsScalesOfEveryType) {
  const QuantizedMatrix m = random_matrix("int4-g64-asym", 8, 64);
  auto parts = kAwqFormat.pack(m);
  for (const DType type : {DType::kBF16, DType::kF32}) {
    parts[2].dtype = type;
    parts[2].bytes.resize(8 * size_of(type));
    encode_from_f32(type, m.scales, parts[2].bytes);
    EXPECT_EQ(kAwqFormat.unpack(m.scheme, 8, 64, views(parts), "w").scales, m.scales);
  }
  parts[2].dtype = DType::kI32;
  EXPECT_THROW(kAwqFormat.unpack(m.scheme, 8, 64, views(parts), "w"), Error);
}

TEST(Awq, RefusesWhatItCannotHold) {
  EXPECT_THAT(kAwqFormat.refuses(random_matrix("int8-g32-sym", 8, 64)), HasSubstr("these have 8"));
  EXPECT_THAT(kAwqFormat.refuses(random_matrix("int4-g32-sym", 12, 64)), HasSubstr("12 rows"));
  QuantizedMatrix m = random_matrix("int4-g32-sym", 8, 64);
  for (int32_t c = 0; c < 64; ++c) m.column_group.push_back(c % 2);
  EXPECT_THAT(kAwqFormat.refuses(m), HasSubstr("activation order"));
}

TEST(Awq, UnpackChecksWhatItReads) {
  const QuantizedMatrix m = random_matrix("int4-g32-sym", 8, 64);
  auto parts = kAwqFormat.pack(m);
  const auto unpack = [&](int64_t cols) { return kAwqFormat.unpack(m.scheme, 8, cols, views(parts), "w"); };
  EXPECT_THROW(unpack(128), Error);
  parts[1].bytes[0] = std::byte{0x78};
  EXPECT_THROW(unpack(64), Error);  // a zero point that is not the middle
  parts.erase(parts.begin() + 1);
  EXPECT_THROW(unpack(64), Error);
}

TEST(Mlx, PacksCodesAlongTheInputLowBitsFirst) {
  const auto parts = kMlxFormat.pack(counting("int4-g32-sym", 1, 32));
  EXPECT_THAT(part_values<uint32_t>(parts, "weight"), ElementsAre(0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98));
  EXPECT_EQ(parts[0].shape, (std::vector<int64_t>{1, 4}));
  EXPECT_THAT(part_values<uint16_t>(parts, "scales"), ElementsAre(0x3C00));
  EXPECT_THAT(part_values<uint16_t>(parts, "biases"), ElementsAre(0xC800));  // -8
}

TEST(Mlx, Packs3BitCodesAcrossWords) {
  QuantizedMatrix m = make_quantized(parse_scheme("int3-g32-sym"), 1, 32);
  m.codes[10] = 7;  // bits 30 to 32
  m.codes[21] = 5;  // bits 63 to 65
  EXPECT_THAT(part_values<uint32_t>(kMlxFormat.pack(m), "weight"), ElementsAre(0xC0000000, 0x80000001, 0x2));
}

// 1 + 1/1024 times 3 takes 12 bits: f16 has 11.
TEST(Mlx, WritesBiasesInF32WhereF16WouldRound) {
  QuantizedMatrix m = counting("int4-g32-asym", 1, 64);
  m.scales = {1.0f + 1.0f / 1024, 2.0f};
  m.zeros = {3, 5};
  const auto parts = kMlxFormat.pack(m);
  EXPECT_THAT(part_values<float>(parts, "scales"), ElementsAre(1.0009765625f, 2.0f));
  EXPECT_THAT(part_values<float>(parts, "biases"), ElementsAre(-3.0029296875f, -10.0f));
}

// A minimum is a bias with the other sign. Those of super-blocks are f16 numbers times integers: 17 bits.
TEST(Mlx, WritesMinimaAsBiases) {
  QuantizedMatrix m = counting("q5_1", 1, 64);
  m.minima = {0.5f, -2.0f};
  const auto parts = kMlxFormat.pack(m);
  EXPECT_THAT(part_values<uint16_t>(parts, "biases"), ElementsAre(0xB800, 0x4000));
  QuantizedMatrix super = make_quantized(parse_scheme("q4_k"), 1, 256);
  super.super.scales = {1.0f + 1.0f / 1024}, super.super.minima = {2.0f + 1.0f / 512};
  super.super.scale_codes = {0, 1, 2, 3, 60, 61, 62, 63}, super.super.minimum_codes = {63, 62, 61, 60, 3, 2, 1, 0};
  expand_super_scales(super, 0, 1);
  ASSERT_EQ(kMlxFormat.refuses(super), "");
  const auto scales = part_values<float>(kMlxFormat.pack(super), "scales"),
             biases = part_values<float>(kMlxFormat.pack(super), "biases");
  for (size_t g = 0; g < 8; ++g) {
    EXPECT_EQ(scales[g], super.super.scale_codes[g] * (1.0 + 1.0 / 1024));
    EXPECT_EQ(biases[g], super.super.minimum_codes[g] * -(2.0 + 1.0 / 512));
  }
}

TEST(Mlx, KeepsEveryIntegerOfEveryWidth) {
  for (const char* scheme : {"int2-g32-sym", "int3-g64-asym", "int3-g32-sym", "int4-g128-sym", "int4-g32-asym",
                             "int8-g64-asym", "int8-g128-sym", "q4_0", "q8_0", "q4_1", "q5_0", "q5_1"})
    expect_round_trip(kMlxFormat, random_matrix(scheme, 5, 384));
}

TEST(Mlx, RefusesWhatItCannotHold) {
  EXPECT_THAT(kMlxFormat.refuses(random_matrix("int4-g16-sym", 8, 64)), HasSubstr("these have 16"));
  EXPECT_THAT(kMlxFormat.refuses(random_matrix("int4-channel-sym", 8, 256)), HasSubstr("these have 256"));
  EXPECT_EQ(kMlxFormat.refuses(random_matrix("int4-channel-sym", 8, 64)), "");
  for (const char* scheme : {"q2_k", "q3_k", "q6_k"})
    EXPECT_THAT(kMlxFormat.refuses(make_quantized(parse_scheme(scheme), 8, 256)), HasSubstr("these have 16"));
  EXPECT_THAT(kMlxFormat.refuses(make_quantized(parse_scheme("iq4_nl"), 8, 256)), HasSubstr("integers"));
  QuantizedMatrix m = random_matrix("int4-g32-asym", 8, 64);
  m.scales[3] = 0;
  m.zeros[3] = 2;
  EXPECT_THAT(kMlxFormat.refuses(m), HasSubstr("scale 0"));
  m.column_group.assign(64, 0);
  EXPECT_THAT(kMlxFormat.refuses(m), HasSubstr("activation order"));
}

TEST(Mlx, UnpackChecksWhatItReads) {
  const QuantizedMatrix m = random_matrix("int4-g32-asym", 8, 64);
  auto parts = kMlxFormat.pack(m);
  const auto unpack = [&](const char* scheme) {
    return kMlxFormat.unpack(parse_scheme(scheme), 8, 64, views(parts), "w");
  };
  EXPECT_EQ(unpack("int4-g32-asym").zeros, m.zeros);
  EXPECT_THROW(unpack("int4-g32-sym"), Error);
  EXPECT_THROW(unpack("int4-g64-asym"), Error);
  parts[2].bytes[0] ^= std::byte{1};
  EXPECT_THROW(unpack("int4-g32-asym"), Error);  // a bias between two zero points
}

TEST(CompressedTensors, PacksCodesAlongTheInputAndZerosAlongTheOutput) {
  QuantizedMatrix m = counting("int4-g8-asym", 10, 8);
  for (size_t i = 0; i < m.zeros.size(); ++i) m.zeros[i] = static_cast<uint8_t>(i);
  const auto parts = kCompressedTensorsFormat.pack(m);
  const auto codes = part_values<uint32_t>(parts, "weight_packed");
  EXPECT_EQ(codes.size(), 10u);
  EXPECT_EQ(codes[0], 0x76543210u);
  EXPECT_EQ(codes[1], 0xFEDCBA98u);
  EXPECT_THAT(part_values<uint32_t>(parts, "weight_zero_point"), ElementsAre(0x76543210, 0x98));
  EXPECT_THAT(part_values<int64_t>(parts, "weight_shape"), ElementsAre(10, 8));
  EXPECT_EQ(parts[1].dtype, DType::kBF16);  // 1 + i / 64
  m.scales[0] = 1.0f + 0x1p-10f;
  EXPECT_EQ(kCompressedTensorsFormat.pack(m)[1].dtype, DType::kF16);
}

TEST(CompressedTensors, Packs3BitCodesAcrossWords) {
  QuantizedMatrix m = make_quantized(parse_scheme("int3-channel-sym"), 1, 22);
  m.codes[10] = 7;  // bits 30 to 32
  m.codes[21] = 5;  // bits 63 to 65
  EXPECT_THAT(part_values<uint32_t>(kCompressedTensorsFormat.pack(m), "weight_packed"),
              ElementsAre(0xC0000000, 0x80000001, 0x2));
}

TEST(CompressedTensors, KeepsEveryIntegerOfEveryWidth) {
  for (const char* scheme :
       {"int2-g32-sym", "int3-g32-asym", "int4-g128-sym", "int4-g32-asym", "int8-g64-sym", "q8_0", "int8-channel-asym"})
    expect_round_trip(kCompressedTensorsFormat, random_matrix(scheme, 13, 128));
  for (const char* scheme : {"int4-channel-sym", "int3-channel-asym"})
    expect_round_trip(kCompressedTensorsFormat, random_matrix(scheme, 13, 37));
}

TEST(CompressedTensors, ReadsGroupsInActivationOrderAndDoesNotWriteThem) {
  QuantizedMatrix m = random_matrix("int4-g32-asym", 8, 64);
  auto parts = kCompressedTensorsFormat.pack(m);
  for (int32_t c = 0; c < 64; ++c) m.column_group.push_back(c % 2);
  EXPECT_THAT(kCompressedTensorsFormat.refuses(m), HasSubstr("activation order"));
  parts.push_back(make_part("weight_g_idx", DType::kI32, {64}, m.column_group));
  EXPECT_EQ(kCompressedTensorsFormat.unpack(m.scheme, 8, 64, views(parts), "test").column_group, m.column_group);
}

TEST(CompressedTensors, ReadsZeroPointsOfEarlierVersions) {
  const QuantizedMatrix m = random_matrix("int4-g32-asym", 8, 64);
  auto parts = kCompressedTensorsFormat.pack(m);
  std::vector<int8_t> zeros;
  for (const uint8_t zero : m.zeros) zeros.push_back(static_cast<int8_t>(zero - 8));
  parts[3] = make_part("weight_zero_point", DType::kI8, {8, 2}, zeros);
  EXPECT_EQ(kCompressedTensorsFormat.unpack(m.scheme, 8, 64, views(parts), "test").zeros, m.zeros);
  parts[3].bytes[0] = std::byte{0x80};
  EXPECT_THROW(kCompressedTensorsFormat.unpack(m.scheme, 8, 64, views(parts), "test"), Error);
}

TEST(MatMulNBits, PacksTheLowNibbleFirst) {
  const auto parts = kMatMulNBitsFormat.pack(counting("int4-g16-sym", 1, 16));
  EXPECT_THAT(part_values<uint8_t>(parts, "codes"), ElementsAre(0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE));
  EXPECT_THAT(part_values<float>(parts, "scales"), ElementsAre(1.0f));
  EXPECT_EQ(parts.size(), 2u);
}

TEST(MatMulNBits, PacksZerosLowNibbleFirstAndPadsTheRow) {
  QuantizedMatrix m = counting("int4-g16-asym", 1, 48);
  m.zeros = {1, 2, 3};
  EXPECT_THAT(part_values<uint8_t>(kMatMulNBitsFormat.pack(m), "zeros"), ElementsAre(0x21, 0x03));
}

TEST(MatMulNBits, ChoosesTheBlockByTheGroup) {
  const auto block = [](const char* scheme, int64_t cols) {
    return matmulnbits_layout(parse_scheme(scheme), cols).block;
  };
  EXPECT_EQ(block("int4-g128-sym", 256), 128);
  EXPECT_EQ(block("int4-g512-sym", 1024), 256);
  EXPECT_EQ(block("int4-g48-sym", 96), 16);
  EXPECT_EQ(block("int4-g8-sym", 96), 0);
  EXPECT_EQ(block("int4-channel-sym", 384), 128);
  EXPECT_EQ(block("int4-channel-sym", 172), 32);
  EXPECT_EQ(block("q8_0", 64), 32);
}

TEST(MatMulNBits, KeepsEveryIntegerOfEveryWidth) {
  for (const char* scheme : {"int2-g32-sym", "int3-g48-asym", "int3-g32-sym", "int4-g128-sym", "int4-g48-asym",
                             "int8-g64-sym", "int8-channel-asym", "q4_0", "q8_0", "q5_0"})
    expect_round_trip(kMatMulNBitsFormat, random_matrix(scheme, 5, 384));
  for (const char* scheme : {"int4-channel-sym", "int3-channel-asym", "int8-tensor-sym"})
    expect_round_trip(kMatMulNBitsFormat, random_matrix(scheme, 5, 172));
}

TEST(DequantizeLinear, StoresTheInputFirstAndSymmetricCodesSigned) {
  QuantizedMatrix m = counting("int4-g16-sym", 3, 16);  // codes of column c: c, c + 16, c + 32, all modulo 16
  const auto parts = kDequantizeLinearFormat.pack(m);
  const auto codes = part_values<uint8_t>(parts, "codes");
  ASSERT_EQ(codes.size(), 24u);
  EXPECT_THAT(std::vector(codes.begin(), codes.begin() + 5), ElementsAre(0x88, 0x98, 0x99, 0xAA, 0xBA));
  EXPECT_THAT(part_values<float>(parts, "scales"), ElementsAre(1.0f, 1.0f + 1.0f / 64, 1.0f + 2.0f / 64));
  EXPECT_EQ(parts.size(), 2u);
}

TEST(DequantizeLinear, StoresZerosUnsigned) {
  QuantizedMatrix m = counting("int4-g16-asym", 3, 32);
  m.zeros = {1, 2, 3, 4, 5, 6};  // row by row; stored block by block
  const auto parts = kDequantizeLinearFormat.pack(m);
  EXPECT_THAT(part_values<uint8_t>(parts, "zeros"), ElementsAre(0x31, 0x25, 0x64));
  EXPECT_EQ(part_values<uint8_t>(parts, "codes")[2], 0x11);
}

TEST(DequantizeLinear, KeepsEveryIntegerOfEveryWidthAndGroup) {
  for (const char* scheme :
       {"int2-g32-sym", "int3-g48-asym", "int3-g32-sym", "int4-g128-sym", "int4-g48-asym", "int8-g64-sym",
        "int8-channel-asym", "q4_0", "q8_0", "q5_0", "int4-g24-sym", "int4-g8-asym"})
    expect_round_trip(kDequantizeLinearFormat, random_matrix(scheme, 5, 384));
  for (const char* scheme : {"int4-channel-sym", "int3-channel-asym", "int8-tensor-sym"})
    expect_round_trip(kDequantizeLinearFormat, random_matrix(scheme, 5, 172));
}

TEST(PackedBlocks, OfOneGroupHaveOneScaleAndOneZeroPoint) {
  const QuantizedMatrix m = random_matrix("int4-channel-asym", 5, 384);  // a group of three blocks
  for (const PackedFormat* format : {&kMatMulNBitsFormat, &kDequantizeLinearFormat})
    for (const char* part : {"scales", "zeros"}) {
      auto parts = format->pack(m);
      std::ranges::find(parts, part, &PackedPart::name)->bytes[0] ^= std::byte{1};
      std::vector<PackedPartView> views;
      for (const PackedPart& p : parts) views.push_back({p.name, p.dtype, p.shape, p.bytes});
      try {
        format->unpack(m.scheme, 5, 384, views, "the.name");
        ADD_FAILURE() << format->name << " " << part;
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), HasSubstr("different scales or zero points"));
      }
    }
}

TEST(DequantizeLinear, RefusesActivationOrder) {
  QuantizedMatrix m = random_matrix("int4-g32-sym", 8, 64);
  for (int32_t c = 0; c < 64; ++c) m.column_group.push_back(c % 2);
  EXPECT_THAT(kDequantizeLinearFormat.refuses(m), HasSubstr("activation order"));
}

TEST(MatMulNBits, RefusesActivationOrder) {
  QuantizedMatrix m = random_matrix("int4-g32-sym", 8, 64);
  for (int32_t c = 0; c < 64; ++c) m.column_group.push_back(c / 32);
  EXPECT_EQ(kMatMulNBitsFormat.refuses(m), "");
  m.column_group.front() = 1;
  EXPECT_THAT(kMatMulNBitsFormat.refuses(m), HasSubstr("activation order"));
}

}  // namespace
}  // namespace retort
