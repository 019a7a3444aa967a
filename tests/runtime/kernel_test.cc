// The reference kernel against plain dequantize-and-multiply, and every other kernel against the reference: equal to
// the bit, over shapes with tails.
#include "runtime/kernels/kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <ostream>

#include "core/base/error.h"
#include "runtime/kernels/registry.h"
#include "runtime/linear.h"
#include "tests/support/memory_source.h"

namespace retort {
namespace {

using retort::testing::MemorySource;
using retort::testing::Random;
using ::testing::HasSubstr;
using ::testing::Pointwise;

std::vector<float> random_values(Random& random, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.normal();
  return values;
}

std::vector<uint32_t> bits_of(std::span<const float> values) {
  std::vector<uint32_t> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size_bytes());
  return bits;
}

struct Case {
  const char* scheme;
  int64_t rows, cols;
  bool shuffled = false;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.scheme << " " << c.rows << "x" << c.cols; }

// Every storage type; rows that are no multiple of the tile, columns that no block divides, short groups.
constexpr Case kCases[] = {
    {"int4-g128-sym", 48, 384},
    {"int4-g128-asym", 33, 256},
    {"int4-g32-sym", 16, 32},
    {"int4-g32-asym", 17, 96},
    {"int4-g64-sym", 40, 192, true},
    {"int4-g64-asym", 20, 128, true},
    {"int4-channel-sym", 15, 172},
    {"int4-channel-asym", 1, 100},
    {"int4-g12-asym", 18, 60},
    {"int4-g8-sym", 5, 24, true},
    {"int4-tensor-sym", 31, 64},
    {"int3-g48-asym", 19, 144},
    {"int2-g16-sym", 21, 80},
    {"q4_0", 24, 160},
    {"int8-g128-sym", 35, 256},
    {"int8-g32-asym", 16, 64},
    {"int8-channel-sym", 50, 172},
    {"int8-channel-asym", 7, 33},
    {"int8-g24-asym", 9, 72, true},
    {"q8_0", 18, 96},
    {"q4_1", 20, 96},
    {"q5_0", 33, 64},
    {"q5_1", 17, 160},
    {"iq4_nl", 19, 96},
    {"q2_k", 18, 512},
    {"q3_k", 33, 256},
    {"q4_k", 16, 768},
    {"q5_k", 21, 512},
    {"q6_k", 35, 256},
    {"iq4_xs", 15, 512},
    {"nf4-g64", 18, 128},
    {"f16", 37, 75},
    {"bf16", 16, 64},
    {"bf16", 3, 1},
    {"f32", 45, 130},
    {"f32", 2, 31},
};

struct Loaded {
  std::vector<float> weights;  // dequantized, [rows][cols]
  PackedMatrix packed;
};

Loaded load(const Case& c, ThreadPool& threads) {
  Random random(static_cast<uint64_t>(c.rows * 1000 + c.cols));
  const Scheme scheme = parse_scheme(c.scheme);
  MemorySource source;
  auto values = random_values(random, c.rows * c.cols);
  if (scheme.is_dense()) {
    source.add_dense("w", {c.rows, c.cols}, *scheme.dense, std::move(values));
  } else if (!scheme.is_plain()) {
    source.add_quantized("w", retort::testing::random_quantized(scheme, c.rows, c.cols, random));
  } else {
    std::vector<int32_t> groups;
    if (c.shuffled) groups = retort::testing::shuffled_groups(scheme, c.cols, 5);
    source.add_quantized("w", retort::testing::round_to_nearest(scheme, c.rows, c.cols, values, std::move(groups)));
  }
  const ModelTensor& tensor = source.tensors().front();
  Loaded loaded{.weights = std::vector<float>(static_cast<size_t>(c.rows * c.cols)),
                .packed = PackedMatrix(source, tensor, false, threads)};
  source.read_f32(tensor, 0, c.rows, loaded.weights);
  EXPECT_EQ(loaded.packed.bytes(), PackedMatrix::estimate_bytes(tensor, false));
  return loaded;
}

// Tiles [first, last) of weights * inputs; what the kernel must leave alone holds a NaN before and after.
std::vector<float> multiply(const Kernel& kernel, const PackedMatrix& w, const Inputs& inputs, int64_t first,
                            int64_t last) {
  const int64_t stride = w.rows() + 3;
  std::vector<float> out(static_cast<size_t>(inputs.tokens * stride), std::bit_cast<float>(0x7fc01234u));
  kernel.matmul[static_cast<int>(w.type())]({.weights = w.tiles(),
                                             .inputs = inputs,
                                             .first_tile = first,
                                             .last_tile = last,
                                             .out = out.data(),
                                             .out_stride = stride});
  return out;
}

class KernelCases : public ::testing::TestWithParam<Case> {
 protected:
  ThreadPool threads_{1};
};

INSTANTIATE_TEST_SUITE_P(All, KernelCases, ::testing::ValuesIn(kCases), [](const auto& info) {
  std::string name = std::string(info.param.scheme) + "_" + std::to_string(info.param.rows) + "x" +
                     std::to_string(info.param.cols) + (info.param.shuffled ? "_shuffled" : "");
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
});

TEST_P(KernelCases, PackedRowsAreTheDequantizedOnes) {
  const Case& c = GetParam();
  const Loaded loaded = load(c, threads_);
  std::vector<float> row(static_cast<size_t>(c.cols));
  for (int64_t r = 0; r < c.rows; ++r) {
    loaded.packed.read_row(r, row);
    for (int64_t col = 0; col < c.cols; ++col)
      ASSERT_EQ(row[static_cast<size_t>(col)], loaded.weights[static_cast<size_t>(r * c.cols + col)])
          << r << " " << col;
  }
}

// What the kernel sees of activations [tokens][cols]: dequantized, in the checkpoint's order.
std::vector<double> seen_activations(const PackedMatrix& w, const Inputs& inputs) {
  std::vector<double> seen(static_cast<size_t>(inputs.tokens * w.cols()));
  for (int64_t t = 0; t < inputs.tokens; ++t)
    for (int64_t p = 0; p < w.packed_cols(); ++p) {
      const int64_t c = w.columns().empty() ? p : w.columns()[static_cast<size_t>(p)];
      if (c < 0 || c >= w.cols()) continue;
      const int64_t at = t * w.packed_cols() + p;
      seen[static_cast<size_t>(t * w.cols() + c)] = w.is_integer()
                                                        ? double{inputs.scales[at / kBlock]} * inputs.codes[at]
                                                        : double{inputs.values[t * inputs.value_stride + c]};
    }
  return seen;
}

TEST_P(KernelCases, ReferenceMultipliesDequantizedWeights) {
  const Case& c = GetParam();
  const Loaded loaded = load(c, threads_);
  constexpr int64_t kTokens = 3;
  Random random(7);
  const auto x = random_values(random, kTokens * c.cols);
  InputBuffer buffer(kTokens, loaded.packed.packed_cols());
  const Inputs inputs = buffer.prepare(loaded.packed, x.data(), kTokens, kReferenceKernel, threads_);
  const auto seen = seen_activations(loaded.packed, inputs);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(seen[i], x[i], 4.5 / 254);  // half a step below 4.5
  const auto out = multiply(kReferenceKernel, loaded.packed, inputs, 0, loaded.packed.tile_count());
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t r = 0; r < c.rows; ++r) {
      double exact = 0, squares = 0;
      for (int64_t col = 0; col < c.cols; ++col) {
        const double product =
            loaded.weights[static_cast<size_t>(r * c.cols + col)] * seen[static_cast<size_t>(t * c.cols + col)];
        exact += product;
        squares += product * product;
      }
      ASSERT_NEAR(out[static_cast<size_t>(t * (c.rows + 3) + r)], exact, 1e-6 * std::sqrt(squares) + 1e-6)
          << t << " " << r;
    }
}

TEST_P(KernelCases, EveryKernelEqualsTheReference) {
  const Case& c = GetParam();
  const Loaded loaded = load(c, threads_);
  for (const Kernel* kernel : kernels()) {
    if (!is_supported(*kernel)) continue;
    for (const int64_t tokens : {1, 2, 3, 4, 5, 7, 8, 9, 16, 23}) {
      Random random(static_cast<uint64_t>(tokens));
      const auto x = random_values(random, tokens * c.cols);
      InputBuffer buffer(tokens, loaded.packed.packed_cols());
      const Inputs inputs = buffer.prepare(loaded.packed, x.data(), tokens, kReferenceKernel, threads_);
      const int64_t tiles = loaded.packed.tile_count();
      for (const int64_t first : {int64_t{0}, tiles - 1}) {
        const auto expected = multiply(kReferenceKernel, loaded.packed, inputs, first, tiles);
        ASSERT_EQ(bits_of(multiply(*kernel, loaded.packed, inputs, first, tiles)), bits_of(expected))
            << kernel->name << " with " << tokens << " tokens from tile " << first;
      }
    }
  }
}

// Integers, and columns in 16 bits with activations that stand out: the others' are rounded as if those were not there,
// and those are multiplied in float32. Rows that no tile divides, and several tokens.
TEST(Outliers, AreMultipliedInFloat32AndDoNotWidenTheRangeOfOthers) {
  constexpr int64_t kRows = 37, kCols = 96, kTokens = 3;
  const std::vector<int32_t> kept{0, 5, 33, 95};
  ThreadPool threads(2);
  for (const char* scheme : {"int4-g32-sym", "int3-g48-asym", "int8-channel-sym", "int8-tensor-asym"}) {
    Random random(9);
    const auto values = random_values(random, kRows * kCols);
    QuantizedMatrix matrix = retort::testing::round_to_nearest(parse_scheme(scheme), kRows, kCols, values);
    retort::testing::keep_columns(matrix, values, kept);
    MemorySource source;
    const ModelTensor& tensor = source.add_quantized("w", matrix);
    PackedMatrix packed(source, tensor, false, threads);
    EXPECT_EQ(packed.bytes(), PackedMatrix::estimate_bytes(tensor, false));
    std::vector<float> weights(static_cast<size_t>(kRows * kCols)), row(static_cast<size_t>(kCols));
    dequantize_rows(matrix, 0, kRows, weights);
    for (int64_t r = 0; r < kRows; ++r) {
      packed.read_row(r, row);
      for (int64_t c = 0; c < kCols; ++c)
        ASSERT_EQ(row[static_cast<size_t>(c)], weights[static_cast<size_t>(r * kCols + c)]);
    }
    auto x = random_values(random, kTokens * kCols);
    for (int64_t t = 0; t < kTokens; ++t)
      for (const int32_t c : kept) x[static_cast<size_t>(t * kCols + c)] *= 1000;
    std::vector<float> out(static_cast<size_t>(kTokens * kRows));
    std::vector<Linear> linears;
    linears.push_back({.weights = std::move(packed), .bias = {}});
    const Projection projection(std::move(linears));
    InputBuffer buffer(kTokens, projection.linears()[0].weights.packed_cols());
    float* const outputs[] = {out.data()};
    projection.apply(x.data(), kTokens, outputs, buffer, kReferenceKernel, threads);
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t r = 0; r < kRows; ++r) {
        double exact = 0, step = 0;  // activations in 8 bits: the largest of a block lies below 4.5
        for (int64_t c = 0; c < kCols; ++c) {
          const double weight = weights[static_cast<size_t>(r * kCols + c)];
          exact += weight * x[static_cast<size_t>(t * kCols + c)];
          if (std::ranges::find(kept, c) == kept.end()) step += std::abs(weight) * 4.5 / 254;
        }
        ASSERT_NEAR(out[static_cast<size_t>(t * kRows + r)], exact, step + 1e-2) << scheme << " " << t << " " << r;
      }
  }
}

// The largest codes and activations: a 16-bit sum that saturated would show.
TEST(Kernels, ExtremeCodesDoNotSaturate) {
  ThreadPool threads(1);
  for (const char* name : {"int8-g32-asym", "int4-g32-asym"}) {
    const Scheme scheme = parse_scheme(name);
    QuantizedMatrix matrix = make_quantized(scheme, 32, 64);
    for (size_t i = 0; i < matrix.codes.size(); ++i) matrix.codes[i] = i < 1024 ? scheme.max_code() : 0;
    for (float& scale : matrix.scales) scale = 1;
    for (size_t i = 0; i < matrix.zeros.size(); ++i) matrix.zeros[i] = i < 32 ? 0 : scheme.max_code();
    MemorySource source;
    const PackedMatrix packed(source, source.add_quantized("w", matrix), false, threads);
    const std::vector<float> x(64, 127.0f);
    InputBuffer buffer(1, 64);
    for (const Kernel* kernel : kernels()) {
      if (!is_supported(*kernel)) continue;
      const Inputs inputs = buffer.prepare(packed, x.data(), 1, *kernel, threads);
      const auto out = multiply(*kernel, packed, inputs, 0, 2);
      const float expected = 64.0f * 127 * scheme.max_code();
      EXPECT_EQ(out[0], expected) << kernel->name;
      EXPECT_EQ(out[31], -expected) << kernel->name;
    }
  }
}

std::vector<float> awkward_values(int64_t count) {
  Random random(static_cast<uint64_t>(count));
  auto values = random_values(random, count);
  for (int64_t i = 0; i < count; i += 5) values[static_cast<size_t>(i)] *= 40;
  for (int64_t i = 3; i < count; i += 11) values[static_cast<size_t>(i)] = i % 2 == 0 ? 0.0f : -0.5f;
  return values;
}

TEST(Kernels, QuantizedActivationsEqualTheReference) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  auto values = awkward_values(7 * kBlock);
  std::fill_n(values.begin() + kBlock, kBlock, 0.0f);
  std::fill_n(values.begin() + 2 * kBlock, kBlock, 1e-42f);
  values[3 * kBlock + 5] = -kInfinity;
  values[4 * kBlock + 6] = std::numeric_limits<float>::quiet_NaN();
  for (const Kernel* kernel : kernels()) {
    if (!is_supported(*kernel)) continue;
    std::vector<int8_t> codes(values.size());
    std::vector<float> scales(7);
    std::vector<int32_t> sums(14);
    kernel->quantize({values.data(), 7, codes.data(), scales.data(), sums.data()});
    for (size_t b = 0; b < 7; ++b) {
      int32_t negative[2] = {};
      for (size_t i = b * kBlock; i < (b + 1) * kBlock; ++i) {
        negative[i % kBlock / 16] -= codes[i];
        if (b > 0 && b < 5) {
          ASSERT_EQ(codes[i], 0) << kernel->name;
        } else {
          ASSERT_NEAR(static_cast<float>(codes[i]) * scales[b], values[i], 0.5001f * scales[b]) << kernel->name;
        }
      }
      EXPECT_EQ(sums[2 * b], negative[0]) << kernel->name;
      EXPECT_EQ(sums[2 * b + 1], negative[1]) << kernel->name;
    }
    EXPECT_EQ(scales[1], 0.0f);
    EXPECT_EQ(scales[3], kInfinity);
    EXPECT_TRUE(std::isnan(scales[4]));
    std::vector<int8_t> expected(values.size());
    kReferenceKernel.quantize({values.data(), 7, expected.data(), scales.data(), sums.data()});
    EXPECT_EQ(codes, expected) << kernel->name;
  }
}

TEST(Kernels, SoftmaxIsExactAndEqualsTheReference) {
  for (const int64_t size : {16, 32, 80, 1600})
    for (const auto& [first, last] : {std::pair<int64_t, int64_t>{0, size}, {0, 1}, {size - 1, size}, {5, size - 3}}) {
      const auto values = awkward_values(size);
      auto expected = values;
      kReferenceKernel.softmax(expected.data(), first, last, size, 0.25f);
      double total = 0;
      const float most = *std::max_element(values.begin() + first, values.begin() + last);
      for (int64_t i = first; i < last; ++i) total += std::exp(0.25 * (double{values[static_cast<size_t>(i)]} - most));
      for (int64_t i = 0; i < size; ++i) {
        const double exact = std::exp(0.25 * (double{values[static_cast<size_t>(i)]} - most)) / total;
        ASSERT_NEAR(expected[static_cast<size_t>(i)], i >= first && i < last ? exact : 0.0, 1e-6) << i;
      }
      for (const Kernel* kernel : kernels()) {
        if (!is_supported(*kernel)) continue;
        auto scores = values;
        kernel->softmax(scores.data(), first, last, size, 0.25f);
        EXPECT_EQ(bits_of(scores), bits_of(expected)) << kernel->name << " " << size << " " << first;
      }
    }
}

TEST(Kernels, NormsAndActivationsEqualTheReference) {
  for (const int64_t size : {1, 7, 8, 15, 16, 17, 64, 172, 1000}) {
    const auto x = awkward_values(size), y = awkward_values(size + 1);
    std::vector<float> norm(x.size());
    kReferenceKernel.rms_norm(x.data(), y.data(), size, 1e-5f, norm.data());
    auto gated = x;
    kReferenceKernel.silu_multiply(gated.data(), y.data(), size);
    double squares = 0;
    for (const float value : x) squares += double{value} * value;
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = x[i] / std::sqrt(squares / static_cast<double>(size) + 1e-5) * y[i];
      ASSERT_NEAR(norm[i], exact, 1e-6 * std::fabs(exact) + 1e-9) << i;
      const double gate = x[i] / (1 + std::exp(-double{x[i]})) * y[i];
      ASSERT_NEAR(gated[i], gate, 1e-6 * std::fabs(gate) + 1e-30) << i;
    }
    for (const Kernel* kernel : kernels()) {
      if (!is_supported(*kernel)) continue;
      std::vector<float> own_norm(x.size());
      kernel->rms_norm(x.data(), y.data(), size, 1e-5f, own_norm.data());
      EXPECT_EQ(bits_of(own_norm), bits_of(norm)) << kernel->name << " " << size;
      auto own_gated = x;
      kernel->silu_multiply(own_gated.data(), y.data(), size);
      EXPECT_EQ(bits_of(own_gated), bits_of(gated)) << kernel->name << " " << size;
    }
  }
}

TEST(Kernels, AreForcedByName) {
  EXPECT_EQ(&select_kernel("reference"), &kReferenceKernel);
  EXPECT_TRUE(is_supported(kReferenceKernel));
  EXPECT_TRUE(is_supported(select_kernel("")));
  EXPECT_EQ(kernels().back(), &kReferenceKernel);
  for (const Kernel* kernel : kernels()) {
    if (is_supported(*kernel)) {
      EXPECT_EQ(&select_kernel(kernel->name), kernel);
    }
  }
  try {
    select_kernel("referense");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(),
                HasSubstr("[runtime] kernel referense: there is no kernel of this name. The nearest one is "
                          "reference"));
  }
}

TEST(Kernels, OneThatTheCpuLacksIsPassedOverOrRefused) {
  Kernel future = kReferenceKernel;
  future.name = "future";
  future.features = 1u << 31;
  const Kernel* const table[] = {&future, &kReferenceKernel};
  EXPECT_FALSE(is_supported(future));
  EXPECT_EQ(&select_kernel("", table), &kReferenceKernel);
  try {
    select_kernel("future", table);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("[runtime] kernel future: this CPU does not have the instructions it needs"));
  }
}

}  // namespace
}  // namespace retort
