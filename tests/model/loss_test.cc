// The chunked loss and its hand-written gradient against the formulas, computed plainly in float64.
#include "model/training/loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/tiny_model.h"

namespace retort {
namespace {

constexpr int64_t kTokens = 7, kHidden = 5, kTeacherHidden = 6, kVocab = 11;

struct Problem {
  std::vector<double> teacher_hidden, teacher_head, hidden, head;
  std::vector<int64_t> labels;
};

std::vector<double> normals(testing::Random& random, int64_t count, double scale) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = static_cast<float>(scale * random.normal());
  return values;
}

Problem make_problem() {
  testing::Random random(3);
  Problem p{normals(random, kTokens * kTeacherHidden, 1),
            normals(random, kVocab * kTeacherHidden, 0.8),
            normals(random, kTokens * kHidden, 1),
            normals(random, kVocab * kHidden, 0.8),
            {}};
  for (int64_t i = 0; i < kTokens; ++i) p.labels.push_back(random.below(kVocab - 2));
  return p;
}

at::Tensor tensor(const std::vector<double>& values, int64_t cols) {
  at::Tensor result = at::empty({static_cast<int64_t>(values.size()) / cols, cols}, at::kFloat);
  std::ranges::copy(values, result.mutable_data_ptr<float>());
  return result;
}

// log softmax(row / t) of the first `vocabulary` logits hidden . head of one token.
std::vector<double> log_softmax(const std::vector<double>& hidden, const std::vector<double>& head, int64_t width,
                                int64_t token, int64_t vocabulary, double t) {
  std::vector<double> row;
  double total = 0;
  for (int64_t v = 0; v < vocabulary; ++v) {
    double dot = 0;
    for (int64_t i = 0; i < width; ++i) dot += hidden[token * width + i] * head[v * width + i];
    row.push_back(dot / t);
    total += std::exp(row.back());
  }
  for (double& value : row) value -= std::log(total);
  return row;
}

// Sum over tokens of weight T^2 KL + (1 - weight) CE.
double plain_loss(const Problem& p, const LossOptions& o) {
  double sum = 0;
  for (int64_t token = 0; token < kTokens; ++token) {
    const auto teacher =
        log_softmax(p.teacher_hidden, p.teacher_head, kTeacherHidden, token, o.vocabulary, o.temperature);
    const auto student = log_softmax(p.hidden, p.head, kHidden, token, o.vocabulary, o.temperature);
    double kl = 0;
    for (size_t v = 0; v < teacher.size(); ++v) kl += std::exp(teacher[v]) * (teacher[v] - student[v]);
    const auto plain = log_softmax(p.hidden, p.head, kHidden, token, o.vocabulary, 1);
    sum += o.kl_weight * o.temperature * o.temperature * kl - (1 - o.kl_weight) * plain[p.labels[token]];
  }
  return sum;
}

struct Computed {
  LossSums sums;
  HeadGradients gradients;
};

Computed compute(const Problem& p, const LossOptions& options, double scale) {
  Computed result;
  const at::Tensor labels = at::tensor(p.labels, at::kLong);
  result.sums =
      head_loss({tensor(p.teacher_hidden, kTeacherHidden), tensor(p.teacher_head, kTeacherHidden)},
                {tensor(p.hidden, kHidden), tensor(p.head, kHidden)}, labels, options, scale, &result.gradients);
  return result;
}

// Every element of `gradient` against a central difference of the plain loss in the element of `values`.
void expect_differences(Problem p, std::vector<double> Problem::*values, const at::Tensor& gradient,
                        const LossOptions& options, double scale) {
  ASSERT_EQ(gradient.numel(), static_cast<int64_t>((p.*values).size()));
  for (size_t i = 0; i < (p.*values).size(); ++i) {
    const double at = (p.*values)[i], step = 1e-5;
    (p.*values)[i] = at + step;
    const double above = plain_loss(p, options);
    (p.*values)[i] = at - step;
    const double below = plain_loss(p, options);
    (p.*values)[i] = at;
    const double expected = scale * (above - below) / (2 * step);
    EXPECT_NEAR(gradient.flatten()[static_cast<int64_t>(i)].item<float>(), expected, 2e-6 + 1e-5 * std::abs(expected))
        << i;
  }
}

class HeadLoss : public ::testing::TestWithParam<LossOptions> {};

TEST_P(HeadLoss, EqualsThePlainFormulas) {
  const Problem p = make_problem();
  const Computed computed = compute(p, GetParam(), 1);
  EXPECT_EQ(computed.sums.tokens, kTokens);
  EXPECT_NEAR(computed.sums.mean(GetParam()) * kTokens, plain_loss(p, GetParam()), 1e-4);
  LossOptions pure = GetParam();
  pure.kl_weight = 1;
  EXPECT_NEAR(computed.sums.kl * pure.temperature * pure.temperature, plain_loss(p, pure), 1e-4);
  pure.kl_weight = 0;
  EXPECT_NEAR(computed.sums.cross_entropy, plain_loss(p, pure), 1e-4);
}

TEST_P(HeadLoss, GradientsEqualFiniteDifferences) {
  const Problem p = make_problem();
  const double scale = 1.0 / 3;
  const Computed computed = compute(p, GetParam(), scale);
  expect_differences(p, &Problem::hidden, computed.gradients.hidden, GetParam(), scale);
  expect_differences(p, &Problem::head, computed.gradients.head, GetParam(), scale);
}

TEST_P(HeadLoss, DoesNotDependOnTheChunk) {
  const Problem p = make_problem();
  LossOptions whole = GetParam();
  whole.chunk = kTokens;
  const Computed a = compute(p, GetParam(), 1), b = compute(p, whole, 1);
  EXPECT_NEAR(a.sums.kl, b.sums.kl, 1e-6);
  EXPECT_TRUE(at::allclose(a.gradients.hidden, b.gradients.hidden, 1e-6, 1e-7));
  EXPECT_TRUE(at::allclose(a.gradients.head, b.gradients.head, 1e-6, 1e-6));
}

// Chunks that divide the tokens and that do not; a vocabulary that leaves padding out.
INSTANTIATE_TEST_SUITE_P(
    Options, HeadLoss,
    ::testing::Values(LossOptions{.temperature = 1, .kl_weight = 1, .vocabulary = kVocab, .chunk = 7},
                      LossOptions{.temperature = 1, .kl_weight = 0, .vocabulary = kVocab, .chunk = 2},
                      LossOptions{.temperature = 2, .kl_weight = 1, .vocabulary = kVocab, .chunk = 3},
                      LossOptions{.temperature = 0.5, .kl_weight = 0.3, .vocabulary = kVocab, .chunk = 100},
                      LossOptions{.temperature = 4, .kl_weight = 0.7, .vocabulary = kVocab - 2, .chunk = 4}));

TEST(HeadLossKl, IsZeroForTheTeacherItself) {
  const Problem p = make_problem();
  const at::Tensor hidden = tensor(p.hidden, kHidden), head = tensor(p.head, kHidden);
  HeadGradients gradients;
  const LossSums sums = head_loss({hidden, head}, {hidden, head}, at::tensor(p.labels, at::kLong),
                                  {.temperature = 2, .vocabulary = kVocab}, 1, &gradients);
  EXPECT_NEAR(sums.kl, 0, 1e-9);
  EXPECT_LT(gradients.hidden.abs().max().item<float>(), 1e-6);
}

// T^2 keeps the size of the gradient as the temperature grows: for large T it tends to (s - t) / V per logit for
// centred logits (arXiv:1503.02531, equation 4).
TEST(HeadLossKl, GradientTendsToTheDifferenceOfLogits) {
  const Problem p = make_problem();
  const at::Tensor hidden = tensor(p.hidden, kHidden), head = tensor(p.head, kHidden);
  const at::Tensor teacher_hidden = tensor(p.teacher_hidden, kTeacherHidden);
  const at::Tensor teacher_head = tensor(p.teacher_head, kTeacherHidden);
  HeadGradients gradients;
  head_loss({teacher_hidden, teacher_head}, {hidden, head}, at::tensor(p.labels, at::kLong),
            {.temperature = 300, .vocabulary = kVocab}, 1, &gradients);
  const auto centred = [](const at::Tensor& logits) { return logits - logits.mean(-1, true); };
  const at::Tensor expected =
      (centred(at::linear(hidden, head)) - centred(at::linear(teacher_hidden, teacher_head))).mm(head) / kVocab;
  EXPECT_TRUE(at::allclose(gradients.hidden, expected, 0.02, 0.01)) << gradients.hidden << expected;
}

}  // namespace
}  // namespace retort
