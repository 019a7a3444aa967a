// The parts of a layer in one pass against Torch's operations, in float32 and bfloat16.
#include "model/single_pass.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

namespace retort {
namespace {

// Of float32 some units in the last place; of bfloat16 one, as what is rounded may lie at the middle of two numbers.
double tolerance(at::ScalarType type) { return type == at::kFloat ? 2e-6 : 8e-3; }

void expect_near(const at::Tensor& result, const at::Tensor& expected) {
  ASSERT_EQ(result.sizes(), expected.sizes());
  ASSERT_EQ(result.scalar_type(), expected.scalar_type());
  const at::Tensor wide = expected.to(at::kDouble);
  const double worst = ((result.to(at::kDouble) - wide).abs() / (wide.abs() + 1e-3)).max().item<double>();
  EXPECT_LE(worst, tolerance(expected.scalar_type()));
}

class SinglePass : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(5); }
  at::Tensor random(at::IntArrayRef sizes) const { return (3 * at::randn(sizes)).to(GetParam()); }
  const at::NoGradGuard no_grad;
};

TEST_P(SinglePass, NormIsThatOfTheDefinition) {
  for (const int64_t size : {1, 15, 16, 64, 257}) {
    const at::Tensor gain = random({size});
    for (const at::ScalarType type : {at::kFloat, GetParam()}) {
      const at::Tensor input = random({2, 3, size}).to(type), wide = input.to(at::kFloat);
      const at::Tensor scale = (wide.square().mean(-1, true) + 1e-5).rsqrt();
      expect_near(norm_in_single_pass(input, gain, 1e-5), gain * (wide * scale).to(GetParam()));
    }
  }
}

TEST_P(SinglePass, NormTakesRowsThatLieApart) {
  const at::Tensor states = random({2, 5, 3, 32}).transpose(1, 2), gain = random({32});
  EXPECT_TRUE(at::equal(norm_in_single_pass(states, gain, 1e-6), norm_in_single_pass(states.contiguous(), gain, 1e-6)));
}

TEST_P(SinglePass, GateIsThatOfTheDefinition) {
  for (const int64_t size : {1, 31, 768}) {
    const at::Tensor gate = random({2, 4, size}) * 8, up = random({2, 4, size});
    expect_near(gate_in_single_pass(gate, up), at::silu(gate) * up);
  }
}

TEST_P(SinglePass, GateAtItsEndsAndWithNothing) {
  const at::Tensor gate = at::tensor({-1e4f, -100.0f, 0.0f, 100.0f, 1e4f, NAN}).to(GetParam()).unsqueeze(0);
  const at::Tensor result = gate_in_single_pass(gate, at::ones_like(gate)).to(at::kFloat);
  const at::Tensor expected = at::silu(gate.to(at::kFloat));
  const at::Tensor wrong = (result - expected).abs() - tolerance(GetParam()) * expected.abs();
  EXPECT_LE(wrong.narrow(1, 0, 5).max().item<double>(), 1e-6);
  EXPECT_TRUE(std::isnan(result[0][5].item<float>()));
}

TEST_P(SinglePass, RotationIsThatOfTheDefinition) {
  const at::Tensor angles = at::randn({7, 16});
  const at::Tensor cosine = angles.cos().to(GetParam()), sine = angles.sin().to(GetParam());
  const at::Tensor states = random({2, 7, 3, 32}).transpose(1, 2), wide = states.to(at::kFloat);
  const at::Tensor low = wide.narrow(-1, 0, 16), high = wide.narrow(-1, 16, 16);
  const at::Tensor c = cosine.to(at::kFloat), s = sine.to(at::kFloat);
  const at::Tensor expected = at::cat({low * c - high * s, high * c + low * s}, -1);
  expect_near(rotate_in_single_pass(states, cosine, sine), expected.to(GetParam()));
}

TEST_P(SinglePass, GradientsAndOtherTypesAreLeftToTorch) {
  EXPECT_TRUE(in_single_pass(random({2, 3})));
  EXPECT_FALSE(in_single_pass(random({3, 2}).t()));
  EXPECT_FALSE(in_single_pass(random({2, 3}).to(at::kHalf)));
  EXPECT_FALSE(in_single_pass(random({2, 3}).to(at::kDouble)));
  const at::AutoGradMode with_gradients(true);
  EXPECT_FALSE(in_single_pass(random({2, 3})));
}

INSTANTIATE_TEST_SUITE_P(Types, SinglePass, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(at::toString(info.param)); });

}  // namespace
}  // namespace retort
