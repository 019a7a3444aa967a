// Schemes, matrices, and the layouts of native directories and GGUF blocks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/pack/block_types.h"
#include "core/pack/packed_format.h"
#include "tests/support/error_of.h"

namespace retort {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

QuantizedMatrix random_matrix(const Scheme& scheme, int64_t rows, int64_t cols, unsigned seed = 1) {
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  std::mt19937 random(seed);
  for (auto& code : m.codes) code = static_cast<uint8_t>(random() & scheme.max_code());
  for (auto& zero : m.zeros) zero = static_cast<uint8_t>(random() & scheme.max_code());
  for (auto& scale : m.scales) scale = f16_to_f32(static_cast<uint16_t>(random() % 0x7c00));
  if (scheme.granularity == Granularity::kTensor) {
    std::fill(m.scales.begin(), m.scales.end(), m.scales[0]);
    if (!m.zeros.empty()) std::fill(m.zeros.begin(), m.zeros.end(), m.zeros[0]);
  }
  return m;
}

// By bisection.
double normal_quantile(double p) {
  double low = -9, high = 9;
  for (int i = 0; i < 80; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < p ? low : high) = middle;
  }
  return low;
}

// The table of arXiv:2305.14314, appendix E, which bitsandbytes has (functional.py, get_4bit_type).
TEST(Nf4, LevelsAreThePublishedOnes) {
  EXPECT_THAT(levels_of(CodeBook::kNf4),
              ElementsAre(-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                          -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                          0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                          0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f));
}

// bitsandbytes/functional.py, create_normal_map: quantiles of the normal distribution at equal steps, eight above zero
// and seven below, over the largest. The table was made in float32.
TEST(Nf4, LevelsAreQuantilesOfTheNormalDistribution) {
  constexpr double kOffset = 0.9677083, kRounding = 1e-6;
  std::vector<double> levels{0};
  for (int i = 0; i < 8; ++i) levels.push_back(normal_quantile(kOffset + (0.5 - kOffset) * i / 8));
  for (int i = 0; i < 7; ++i) levels.push_back(-normal_quantile(kOffset + (0.5 - kOffset) * i / 7));
  std::ranges::sort(levels);
  for (size_t i = 0; i < levels.size(); ++i)
    EXPECT_NEAR(levels_of(CodeBook::kNf4)[i], levels[i] / levels.back(), kRounding) << i;
}

std::vector<Scheme> schemes() {
  std::vector<Scheme> all{parse_scheme("q8_0"), parse_scheme("q4_0")};
  for (const char* bits : {"int2", "int3", "int4", "int8"})
    for (const char* group : {"g8", "g32", "g64", "channel", "tensor"})
      for (const char* symmetry : {"sym", "asym"})
        all.push_back(parse_scheme(std::string(bits) + "-" + group + "-" + symmetry));
  return all;
}

void expect_equal(const QuantizedMatrix& a, const QuantizedMatrix& b, const std::string& what) {
  EXPECT_EQ(a.scheme, b.scheme) << what;
  EXPECT_EQ(a.codes, b.codes) << what;
  EXPECT_EQ(a.scales, b.scales) << what;
  EXPECT_EQ(a.zeros, b.zeros) << what;
  EXPECT_EQ(a.column_group, b.column_group) << what;
}

TEST(Scheme, NamesParseBack) {
  for (const Scheme& scheme : schemes()) EXPECT_EQ(parse_scheme(name_of(scheme)), scheme) << name_of(scheme);
  EXPECT_EQ(name_of(parse_scheme("int4")), "int4-g128-sym");
  EXPECT_EQ(name_of(parse_scheme("bf16")), "bf16");
  for (const char* bad : {"", "int", "int5", "int4-", "int4-g", "int4-g0-sym", "int4-g-8-sym", "int4-g128-sym-", "INT4",
                          "int4-g128-Sym", "int4-g999999999999-sym", "q4", "int4-g128x-sym"})
    EXPECT_FALSE(find_scheme(bad).has_value()) << bad;
}

TEST(Scheme, CountsTheBitsThatItsOwnLayoutStores) {
  for (const Scheme& scheme : schemes()) {
    const int64_t rows = 6, cols = 192;
    double stored = 0;
    for (const PackedPart& part : storage_format(scheme).pack(random_matrix(scheme, rows, cols)))
      stored += static_cast<double>(part.bytes.size()) * 8;
    EXPECT_DOUBLE_EQ(bits_per_weight(scheme, rows, cols), stored / static_cast<double>(rows * cols)) << name_of(scheme);
  }
  EXPECT_DOUBLE_EQ(bits_per_weight(parse_scheme("int4-g128-sym"), 10, 256), 4.125);
  EXPECT_DOUBLE_EQ(bits_per_weight(parse_scheme("q4_0"), 10, 256), 4.5);
  EXPECT_DOUBLE_EQ(bits_per_weight(parse_scheme("q8_0"), 10, 256), 8.5);
  EXPECT_DOUBLE_EQ(bits_per_weight(parse_scheme("bf16"), 10, 256), 16);
}

TEST(PackedFormat, EveryFormatGivesBackWhatItHolds) {
  int held = 0;
  for (const PackedFormat& format : packed_formats())
    for (const Scheme& scheme : schemes()) {
      const QuantizedMatrix m = random_matrix(scheme, 32, 192);
      if (!format.refuses(m).empty()) continue;
      const auto parts = format.pack(m);
      expect_equal(format.unpack(scheme, 32, 192, views_of(parts), "m"), m,
                   std::string(format.name) + " " + name_of(scheme));
      ++held;
    }
  EXPECT_GT(held, 80);
}

TEST(PackedFormat, EverySchemeHasAFormatThatHoldsIt) {
  for (const Scheme& scheme : schemes())
    EXPECT_EQ(storage_format(scheme).refuses(random_matrix(scheme, 32, 192)), "") << name_of(scheme);
  EXPECT_THROW(packed_format("nonsense"), Error);
}

TEST(Native, PacksLowBitsFirstAndStartsRowsOnBytes) {
  QuantizedMatrix m = make_quantized(parse_scheme("int3-channel-asym"), 2, 5);
  m.codes = {1, 2, 3, 4, 5, 7, 0, 0, 0, 6};
  m.scales = {1.0f, -0.5f};
  m.zeros = {3, 7};
  const auto parts = packed_format("native").pack(m);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].name, "codes");
  EXPECT_EQ(parts[0].shape, (std::vector<int64_t>{2, 2}));
  // 5 4 3 2 1 -> 101 100 011 010 001; 6 0 0 0 7 -> 110 000 000 000 111
  EXPECT_THAT(parts[0].bytes, ElementsAre(std::byte{0xd1}, std::byte{0x58}, std::byte{0x07}, std::byte{0x60}));
  EXPECT_EQ(parts[1].name, "scales");
  EXPECT_EQ(parts[1].dtype, DType::kF16);
  EXPECT_THAT(parts[1].bytes, ElementsAre(std::byte{0x00}, std::byte{0x3c}, std::byte{0x00}, std::byte{0xb8}));
  EXPECT_EQ(parts[2].name, "zeros");
  EXPECT_THAT(parts[2].bytes, ElementsAre(std::byte{3}, std::byte{7}));
}

TEST(Native, KeepsActivationOrder) {
  QuantizedMatrix m = random_matrix(parse_scheme("int4-g8-sym"), 3, 24);
  for (int c = 0; c < 24; ++c) m.column_group.push_back((c * 7) % 3);
  const auto parts = packed_format("native").pack(m);
  EXPECT_EQ(parts.back().name, "groups");
  expect_equal(packed_format("native").unpack(m.scheme, 3, 24, views_of(parts), "m"), m, "activation order");
  for (const char* name : {"q4_0", "q8_0"}) {
    QuantizedMatrix wide = random_matrix(parse_scheme("int4-g32-sym"), 1, 64);
    wide.column_group.assign(64, 1);
    EXPECT_THAT(packed_format(name).refuses(wide), HasSubstr("activation order"));
  }
}

// Blocks and values made by tests/oracles/make_block_goldens.py. Equal bit for bit: the order of the float32
// operations is part of the format.
TEST(Blocks, HoldWhatTheGgufPackageReads) {
  for (const BlockInfo& info : block_types()) {
    const std::string name(info.name);
    const MappedFile golden(RETORT_SOURCE_DIR "/tests/golden/blocks/" + name + ".bin");
    const int64_t cols = 16 * info.elements, row_bytes = 16 * info.bytes;
    ASSERT_EQ(golden.bytes().size(), static_cast<size_t>(row_bytes + cols * 4)) << name;
    const PackedPartView part{
        "blocks", DType::kU8, {1, row_bytes}, golden.bytes().first(static_cast<size_t>(row_bytes))};
    const QuantizedMatrix m = packed_format(name).unpack(parse_scheme(name), 1, cols, {&part, 1}, name);
    std::vector<float> values(static_cast<size_t>(cols)), expected(values.size());
    dequantize_rows(m, 0, 1, values);
    std::memcpy(expected.data(), golden.bytes().data() + row_bytes, expected.size() * 4);
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected[i])) << name << " " << i;
    const auto packed = packed_format(name).pack(m);
    EXPECT_TRUE(std::ranges::equal(packed[0].bytes, part.bytes)) << name;
    PackedPartView cut = part;
    cut.bytes = cut.bytes.first(cut.bytes.size() - 1);
    EXPECT_THROW(packed_format(name).unpack(parse_scheme(name), 1, cols, {&cut, 1}, name), Error);
  }
}

// What a block can hold exactly it holds exactly: fewer bits, wider groups, a channel's scale in every block.
TEST(Blocks, HoldSymmetricSchemesExactly) {
  struct Case {
    const char *format, *scheme;
  };
  for (const Case& c : {Case{"q4_0", "int4-g128-sym"}, Case{"q4_0", "int4-channel-sym"}, Case{"q4_0", "int3-g64-sym"},
                        Case{"q4_0", "int2-tensor-sym"}, Case{"q8_0", "int8-channel-sym"}, Case{"q8_0", "int4-g64-sym"},
                        Case{"q8_0", "q4_0"}}) {
    const QuantizedMatrix m = random_matrix(parse_scheme(c.scheme), 4, 256);
    const PackedFormat& format = packed_format(c.format);
    ASSERT_EQ(format.refuses(m), "") << c.scheme;
    const auto parts = format.pack(m);
    std::vector<float> values(4 * 256), decoded(4 * 256);
    dequantize_rows(m, 0, 4, values);
    const Scheme block = parse_scheme(c.format);
    dequantize_rows(format.unpack(block, 4, 256, views_of(parts), c.scheme), 0, 4, decoded);
    EXPECT_EQ(values, decoded) << c.format << " " << c.scheme;
  }
}

TEST(Blocks, RefuseWhatTheyCannotHold) {
  const auto reason = [](const char* format, const char* scheme, int64_t cols) {
    return packed_format(format).refuses(random_matrix(parse_scheme(scheme), 2, cols));
  };
  EXPECT_THAT(reason("q4_0", "int8-g32-sym", 64), HasSubstr("4-bit"));
  EXPECT_THAT(reason("q4_0", "int4-g32-asym", 64), HasSubstr("zero"));
  EXPECT_THAT(reason("q4_0", "int4-g8-sym", 64), HasSubstr("one scale for each 32"));
  EXPECT_THAT(reason("q8_0", "int8-channel-sym", 172), HasSubstr("multiple of 32"));
}

TEST(PackedFormat, DamagedPartsAreErrorsThatNameTheTensor) {
  const QuantizedMatrix m = random_matrix(parse_scheme("int4-g32-asym"), 4, 64);
  const PackedFormat& native = packed_format("native");
  const auto parts = native.pack(m);
  const auto unpack = [&](const std::function<void(std::vector<PackedPartView>&)>& damage) {
    auto views = views_of(parts);
    damage(views);
    return error_of([&] { native.unpack(m.scheme, 4, 64, views, "the.name"); });
  };
  EXPECT_EQ(unpack([](auto&) {}), "no error");
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_THAT(unpack([&](auto& v) { v.erase(v.begin() + static_cast<long>(i)); }), HasSubstr("the.name")) << i;
    EXPECT_THAT(unpack([&](auto& v) { v[i].shape[1] += 1; }), HasSubstr("the.name")) << i;
    EXPECT_THAT(unpack([&](auto& v) { v[i].bytes = v[i].bytes.first(3); }), HasSubstr("the.name")) << i;
    EXPECT_THAT(unpack([&](auto& v) { v[i].dtype = DType::kF64; }), HasSubstr("the.name")) << i;
  }
  const std::vector<std::byte> infinite(parts[1].bytes.size(), std::byte{0x7c});
  EXPECT_THAT(unpack([&](auto& v) { v[1].bytes = infinite; }), HasSubstr("not finite"));
  const std::vector<std::byte> large(parts[2].bytes.size(), std::byte{16});
  EXPECT_THAT(unpack([&](auto& v) { v[2].bytes = large; }), HasSubstr("out of range"));
  EXPECT_THAT(error_of([&] { native.unpack(parse_scheme("int4-g64-sym"), 4, 96, views_of(parts), "x"); }),
              HasSubstr("divide"));
}

TEST(QuantizedMatrix, ChecksItsContent) {
  const QuantizedMatrix good = random_matrix(parse_scheme("int4-g32-asym"), 4, 64);
  const auto check = [&](const std::function<void(QuantizedMatrix&)>& damage) {
    QuantizedMatrix m = good;
    damage(m);
    return error_of([&] { check_matrix(m, "the.name"); });
  };
  EXPECT_EQ(check([](auto&) {}), "no error");
  EXPECT_THAT(check([](auto& m) { m.codes.pop_back(); }), HasSubstr("codes"));
  EXPECT_THAT(check([](auto& m) { m.codes[5] = 16; }), HasSubstr("code is out of range"));
  EXPECT_THAT(check([](auto& m) { m.zeros[5] = 16; }), HasSubstr("zero point is out of range"));
  EXPECT_THAT(check([](auto& m) { m.zeros.clear(); }), HasSubstr("zero points"));
  EXPECT_THAT(check([](auto& m) { m.scales[1] = 0.1f; }), HasSubstr("f16"));
  EXPECT_THAT(check([](auto& m) { m.scales.push_back(1); }), HasSubstr("scales"));
  EXPECT_THAT(check([](auto& m) { m.column_group.assign(63, 0); }), HasSubstr("every column"));
  EXPECT_THAT(check([](auto& m) { m.column_group.assign(64, 2); }), HasSubstr("group index"));
  QuantizedMatrix tensor = random_matrix(parse_scheme("int8-tensor-sym"), 4, 64);
  EXPECT_NO_THROW(check_matrix(tensor, "m"));
  tensor.scales[2] *= 2;
  EXPECT_THAT(error_of([&] { check_matrix(tensor, "m"); }), HasSubstr("one scale for the tensor"));
}

// Columns 3, 4 and 40 in 16 bits.
QuantizedMatrix matrix_with_outliers(const std::string& scheme) {
  QuantizedMatrix m = random_matrix(parse_scheme(scheme), 4, 64);
  m.outlier_columns = {3, 4, 40};
  for (int64_t r = 0; r < m.rows; ++r)
    for (const int32_t c : m.outlier_columns) {
      m.codes[static_cast<size_t>(r * m.cols + c)] = m.zero(r, m.group_of(c));
      m.outliers.push_back(static_cast<float>(100 * r + c) / 16);
    }
  return m;
}

TEST(Outliers, AreTheValuesOfTheirColumns) {
  const QuantizedMatrix m = matrix_with_outliers("int4-g32-asym");
  check_matrix(m, "m");
  QuantizedMatrix plain = m;
  plain.outlier_columns.clear(), plain.outliers.clear();
  std::vector<float> values(128), integers(128);
  dequantize_rows(m, 2, 2, values);
  dequantize_rows(plain, 2, 2, integers);
  for (int64_t i = 0; i < 128; ++i) {
    const int64_t r = 2 + i / 64, c = i % 64;
    const bool kept = c == 3 || c == 4 || c == 40;
    EXPECT_TRUE(!kept || integers[static_cast<size_t>(i)] == 0.0f);
    EXPECT_EQ(values[static_cast<size_t>(i)],
              kept ? static_cast<float>(100 * r + c) / 16 : integers[static_cast<size_t>(i)])
        << i;
  }
  const QuantizedMatrix permuted = permute_rows(m, std::vector<int64_t>{2, 0, 3, 1});
  dequantize_rows(permuted, 0, 1, std::span(values).first(64));
  EXPECT_EQ(values[40], (200 + 40) / 16.0f);
}

TEST(Outliers, AreChecked) {
  const QuantizedMatrix good = matrix_with_outliers("int4-g32-asym");
  const auto check = [&](const std::function<void(QuantizedMatrix&)>& damage) {
    QuantizedMatrix m = good;
    damage(m);
    return error_of([&] { check_matrix(m, "the.name"); });
  };
  EXPECT_THAT(check([](auto& m) { m.outliers.pop_back(); }), HasSubstr("does not fit the shape"));
  EXPECT_THAT(check([](auto& m) { m.outlier_columns.clear(); }), HasSubstr("does not fit the shape"));
  EXPECT_THAT(check([](auto& m) { m.outlier_columns = {3, 3, 40}; }), HasSubstr("rising order"));
  EXPECT_THAT(check([](auto& m) { m.outlier_columns = {4, 3, 40}; }), HasSubstr("rising order"));
  EXPECT_THAT(check([](auto& m) { m.outlier_columns = {-1, 4, 40}; }), HasSubstr("rising order"));
  EXPECT_THAT(check([](auto& m) { m.outlier_columns = {3, 4, 64}; }), HasSubstr("rising order"));
  EXPECT_THAT(check([](auto& m) { m.outliers[1] = 0.1f; }), HasSubstr("not an f16 value"));
  EXPECT_THAT(check([](auto& m) { m.outliers[1] = INFINITY; }), HasSubstr("not an f16 value"));
  EXPECT_THAT(check([](auto& m) { m.outliers[1] = NAN; }), HasSubstr("not an f16 value"));
  EXPECT_THAT(check([](auto& m) { m.codes[64 + 40] ^= 1; }), HasSubstr("not its zero point"));
  for (const char* scheme : {"q4_0", "nf4-g32"})
    EXPECT_THAT(error_of([&] { check_matrix(matrix_with_outliers(scheme), "x"); }), HasSubstr("no columns in 16 bits"));
}

TEST(Outliers, HaveTwoPartsInTheNativeLayout) {
  const PackedFormat& native = packed_format("native");
  for (const char* scheme : {"int4-g32-asym", "int3-channel-sym", "int8-tensor-asym", "int2-g8-sym"}) {
    const QuantizedMatrix m = matrix_with_outliers(scheme);
    EXPECT_EQ(native.refuses(m), "");
    const auto parts = native.pack(m);
    const PackedPart &values = parts[parts.size() - 2], &columns = parts.back();
    EXPECT_EQ(values.name, "outliers");
    EXPECT_EQ(values.dtype, DType::kF16);
    EXPECT_EQ(values.shape, (std::vector<int64_t>{4, 3}));
    EXPECT_THAT(std::span(values.bytes).first(4),  // 3 / 16 and 4 / 16
                ElementsAre(std::byte{0x00}, std::byte{0x32}, std::byte{0x00}, std::byte{0x34}));
    EXPECT_EQ(columns.name, "outlier_columns");
    EXPECT_EQ(columns.dtype, DType::kI32);
    EXPECT_EQ(columns.shape, (std::vector<int64_t>{3}));
    EXPECT_EQ(columns.bytes[8], std::byte{40});
    const QuantizedMatrix back = native.unpack(m.scheme, 4, 64, views_of(parts), "m");
    expect_equal(back, m, scheme);
    EXPECT_EQ(back.outlier_columns, m.outlier_columns);
    EXPECT_EQ(back.outliers, m.outliers);
    double stored = 0;
    for (const PackedPart& part : parts) stored += static_cast<double>(part.bytes.size()) * 8;
    EXPECT_DOUBLE_EQ(bits_per_weight(m.scheme, 4, 64, 3), stored / (4 * 64)) << scheme;
    for (const size_t missing : {parts.size() - 2, parts.size() - 1}) {
      auto views = views_of(parts);
      views.erase(views.begin() + static_cast<int64_t>(missing));
      EXPECT_THAT(error_of([&] { native.unpack(m.scheme, 4, 64, views, "x"); }),
                  HasSubstr("'" + std::string(parts[missing].name) + "' is missing"));
    }
  }
}

TEST(Outliers, HaveNoPlaceInAnyOtherLayout) {
  for (const PackedFormat& format : packed_formats()) {
    if (format.name == "native") continue;
    QuantizedMatrix m = matrix_with_outliers("int4-g32-sym");
    EXPECT_EQ(format.refuses(m), "columns kept in 16 bits have no place in " + std::string(format.name));
  }
}

TEST(QuantizedMatrix, PermutesRowsWithTheirScales) {
  QuantizedMatrix m = random_matrix(parse_scheme("int4-g32-asym"), 4, 64);
  const std::vector<int64_t> order{2, 0, 3, 1};
  const QuantizedMatrix permuted = permute_rows(m, order);
  std::vector<float> row(64), expected(64);
  for (int64_t r = 0; r < 4; ++r) {
    dequantize_rows(permuted, r, 1, row);
    dequantize_rows(m, order[static_cast<size_t>(r)], 1, expected);
    EXPECT_EQ(row, expected) << r;
  }
}

}  // namespace
}  // namespace retort
