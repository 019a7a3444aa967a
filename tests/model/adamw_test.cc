// AdamW against algorithm 2 of arXiv:1711.05101 in float64, element by element.
#include "model/training/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/tiny_model.h"

namespace retort {
namespace {

struct Fixture {
  explicit Fixture(int threads) : pool(threads) {}
  ThreadPool pool;
  ProgressSink sink;
  Context context{pool, sink};
};

at::Tensor random_vector(uint64_t seed, int64_t count) {
  testing::Random random(seed);
  at::Tensor values = at::empty({count}, at::kFloat);
  for (int64_t i = 0; i < count; ++i) values.mutable_data_ptr<float>()[i] = random.normal();
  return values;
}

// Three steps with changing gradients and rates; returns the parameters.
at::Tensor run_steps(const Context& context, const AdamWOptions& options, int64_t count, AdamWState* out = nullptr) {
  at::Tensor parameters = random_vector(1, count);
  AdamWState state{at::zeros({count}), at::zeros({count}), 0};
  for (int step = 0; step < 3; ++step)
    adamw_step(context, options, 0.1 / (step + 1), random_vector(10 + static_cast<uint64_t>(step), count), state,
               parameters);
  if (out) *out = state;
  return parameters;
}

TEST(AdamW, EqualsTheFormulas) {
  Fixture f(2);
  constexpr int64_t kCount = 150000, kDecayed = 70000;  // more than one piece; the border inside one
  const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-6, .weight_decay = 0.3, .decayed = kDecayed};
  const at::Tensor result = run_steps(f.context, options, kCount);

  const at::Tensor start = random_vector(1, kCount);
  std::vector<at::Tensor> gradients;
  for (uint64_t step = 0; step < 3; ++step) gradients.push_back(random_vector(10 + step, kCount));
  for (const int64_t i :
       {int64_t{0}, int64_t{65535}, int64_t{65536}, kDecayed - 1, kDecayed, int64_t{131072}, kCount - 1}) {
    double p = start[i].item<float>(), m = 0, v = 0;
    for (int step = 1; step <= 3; ++step) {
      const double g = gradients[static_cast<size_t>(step - 1)][i].item<float>(), rate = 0.1 / step;
      m = 0.9 * m + 0.1 * g;
      v = 0.99 * v + 0.01 * g * g;
      const double m_hat = m / (1 - std::pow(0.9, step)), v_hat = v / (1 - std::pow(0.99, step));
      p = p - rate * (m_hat / (std::sqrt(v_hat) + 1e-6) + (i < kDecayed ? 0.3 * p : 0));
    }
    EXPECT_NEAR(result[i].item<float>(), p, 1e-5) << i;
  }
}

TEST(AdamW, GivesTheSameBytesForAnyNumberOfThreads) {
  Fixture one(1), three(3);
  const AdamWOptions options{.weight_decay = 0.1, .decayed = 100000};
  EXPECT_TRUE(at::equal(run_steps(one.context, options, 200000), run_steps(three.context, options, 200000)));
}

TEST(GlobalNorm, IsTheEuclideanNorm) {
  Fixture f(2);
  const at::Tensor vector = random_vector(5, 200001);
  double squares = 0;
  for (int64_t i = 0; i < vector.numel(); ++i) squares += std::pow(vector.const_data_ptr<float>()[i], 2.0);
  EXPECT_NEAR(global_norm(f.context, vector), std::sqrt(squares), 1e-9 * std::sqrt(squares));
  EXPECT_EQ(global_norm(f.context, at::zeros({10})), 0);
}

TEST(ClipGradient, ScalesWhatIsLongerThanTheLimit) {
  Fixture f(2);
  at::Tensor gradient = at::tensor({3.0f, 4.0f});
  EXPECT_DOUBLE_EQ(clip_gradient(f.context, 1, gradient), 5);
  EXPECT_TRUE(at::allclose(gradient, at::tensor({0.6f, 0.8f}), 1e-6));
}

TEST(ClipGradient, LeavesWhatIsShorterAlone) {
  Fixture f(2);
  at::Tensor gradient = at::tensor({3.0f, 4.0f});
  EXPECT_DOUBLE_EQ(clip_gradient(f.context, 5, gradient), 5);
  EXPECT_DOUBLE_EQ(clip_gradient(f.context, 0, gradient), 5);
  EXPECT_TRUE(at::equal(gradient, at::tensor({3.0f, 4.0f})));
}

}  // namespace
}  // namespace retort
