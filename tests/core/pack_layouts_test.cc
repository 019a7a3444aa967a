// The layouts of GPTQ checkpoints and of MatMulNBits: words written by hand from their descriptions, and round trips.
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
  EXPECT_THROW(unpack(64), Error);
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
                             "int8-g64-sym", "int8-channel-asym", "q4_0", "q8_0"})
    expect_round_trip(kMatMulNBitsFormat, random_matrix(scheme, 5, 384));
  for (const char* scheme : {"int4-channel-sym", "int3-channel-asym", "int8-tensor-sym"})
    expect_round_trip(kMatMulNBitsFormat, random_matrix(scheme, 5, 172));
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
