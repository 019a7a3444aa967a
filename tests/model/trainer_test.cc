// Loss and gradient of a batch against autograd through the whole model with all logits in memory.
#include "model/training/trainer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/support/tiny_model.h"

namespace retort {
namespace {

constexpr int64_t kLength = 12;

struct Setting {
  std::string model_type = "llama";
  bool tied = false;
  double temperature = 1, kl_weight = 1;
};

struct Case {
  explicit Case(const Setting& setting, int threads = 2) : pool(threads) {
    testing::write_tiny_model(dir.path() / "teacher", {.model_type = setting.model_type, .layers = 2, .seed = 5});
    testing::write_tiny_model(dir.path() / "student", {.model_type = setting.model_type,
                                                       .hidden_size = 32,
                                                       .ffn_size = 48,
                                                       .layers = 2,
                                                       .heads = 2,
                                                       .tied = setting.tied,
                                                       .seed = 6});
    teacher_source = open_model(dir.path() / "teacher");
    student_source = open_model(dir.path() / "student");
    teacher = {teacher_source->config(), load_weights(*teacher_source)};
    student = load_student(*student_source, at::kCPU);
    loss = {.temperature = setting.temperature, .kl_weight = setting.kl_weight, .vocabulary = 264, .chunk = 7};
    testing::Random random(9);
    batch = at::empty({6, kLength + 1}, at::kLong);
    for (int64_t i = 0; i < batch.numel(); ++i) batch.mutable_data_ptr<int64_t>()[i] = random.below(264);
  }

  at::Tensor gradient(int64_t windows_per_shard, LossSums* sums = nullptr) {
    at::Tensor result = at::empty_like(student.values);
    const LossSums found =
        Trainer(teacher, student, loss, windows_per_shard, pool.size(), context).gradient(batch, result);
    if (sums) *sums = found;
    return result;
  }

  testing::TempDir dir;
  ThreadPool pool;
  ProgressSink sink;
  Context context{.threads = pool, .progress = sink};
  std::unique_ptr<ModelSource> teacher_source, student_source;
  Teacher teacher;
  StudentParameters student;
  LossOptions loss;
  at::Tensor batch;
};

// The mean loss of the batch by full logits and autograd, and its gradient laid out like the student's values.
at::Tensor plain_gradient(const Case& c, double& mean) {
  const at::Tensor ids = c.batch.narrow(1, 0, kLength), labels = c.batch.narrow(1, 1, kLength).flatten();
  const GraphLeaves graph = make_leaves(c.student, c.student.values, true);
  const at::Tensor t = forward_logits(c.teacher.config, c.teacher.weights, ids).flatten(0, 1).detach();
  const at::Tensor s = forward_logits(c.student.config, graph.weights, ids).flatten(0, 1);
  const double temperature = c.loss.temperature;
  const at::Tensor p = at::softmax(t / temperature, -1);
  const at::Tensor kl = (p * (p.log() - at::log_softmax(s / temperature, -1))).sum(-1).mean();
  const at::Tensor ce = at::nll_loss(at::log_softmax(s, -1), labels);
  const at::Tensor loss = c.loss.kl_weight * temperature * temperature * kl + (1 - c.loss.kl_weight) * ce;
  mean = loss.item<double>();
  const auto found = torch::autograd::grad({loss}, graph.leaves, {});
  at::Tensor flat = at::empty_like(c.student.values);
  for (size_t i = 0; i < found.size(); ++i) view_of(flat, c.student.slices[i]).copy_(found[i]);
  return flat;
}

class TrainerGradient : public ::testing::TestWithParam<Setting> {};

TEST_P(TrainerGradient, EqualsAutogradThroughFullLogits) {
  Case c(GetParam());
  LossSums sums;
  const at::Tensor found = c.gradient(6, &sums);
  double mean = 0;
  const at::Tensor expected = plain_gradient(c, mean);
  EXPECT_EQ(sums.tokens, 6 * kLength);
  EXPECT_NEAR(sums.mean(c.loss), mean, 1e-5);
  EXPECT_GT(expected.abs().max().item<float>(), 1e-3);
  for (const ParameterSlice& slice : c.student.slices)
    EXPECT_TRUE(at::allclose(view_of(found, slice), view_of(expected, slice), 1e-4, 1e-6)) << slice.name;
}

INSTANTIATE_TEST_SUITE_P(Settings, TrainerGradient,
                         ::testing::Values(Setting{}, Setting{"llama", true}, Setting{"qwen2", true, 2, 0.5},
                                           Setting{"qwen3", false, 3, 0.2}, Setting{"llama", false, 1, 0}));

TEST(Trainer, AccumulatingMicroBatchesEqualsOneBigBatch) {
  Case c({.temperature = 2, .kl_weight = 0.5});
  LossSums whole, pieces;
  const at::Tensor one = c.gradient(6, &whole), uneven = c.gradient(4, &pieces);  // shards of 4 and 2 windows
  EXPECT_NEAR(whole.mean(c.loss), pieces.mean(c.loss), 1e-6);
  EXPECT_TRUE(at::allclose(one, uneven, 1e-4, 1e-6));
}

TEST(Trainer, GivesTheSameBytesForAnyNumberOfThreads) {
  Case one({.tied = true}, 1), three({.tied = true}, 3);
  EXPECT_TRUE(at::equal(one.gradient(1), three.gradient(1)));
}

TEST(Trainer, GivesTheSameBytesForAnyNumberOfShardsSideBySide) {
  Case c({.tied = true}, 3);
  at::Tensor result = at::empty_like(c.student.values);
  Trainer(c.teacher, c.student, c.loss, 1, 2, c.context).gradient(c.batch, result);
  EXPECT_TRUE(at::equal(c.gradient(1), result));
}

TEST(Trainer, EvaluationIsTheLossWithoutTheGradient) {
  Case c({.temperature = 2, .kl_weight = 0.5});
  LossSums sums;
  c.gradient(2, &sums);
  const LossSums evaluated = Trainer(c.teacher, c.student, c.loss, 2, 2, c.context).evaluate(c.batch, c.student.values);
  // Float32 in another order: what lies between the products is then computed in one pass (model/single_pass.h).
  EXPECT_NEAR(evaluated.kl, sums.kl, 1e-5 * sums.kl);
  EXPECT_NEAR(evaluated.cross_entropy, sums.cross_entropy, 1e-6 * sums.cross_entropy);
}

TEST(StudentParameters, RoundTripThroughTheStoredType) {
  testing::TempDir dir;
  testing::write_tiny_model(dir.path() / "model", {.dtype = DType::kBF16});
  const auto source = open_model(dir.path() / "model");
  StudentParameters student = load_student(*source, at::kCPU);
  EXPECT_TRUE(at::equal(student.values, rounded_values(student)));  // bfloat16 values stay as they are
  student.values.mul_(1.001);
  std::filesystem::create_directory(dir.path() / "out");
  ModelWriter writer(dir.path() / "out", {});
  write_student(student, *source, writer);
  writer.finish(source->config().json, Json());
  const auto written = open_model(dir.path() / "out");
  EXPECT_EQ(written->tensors()[0].scheme.dense, DType::kBF16);
  EXPECT_TRUE(at::equal(load_student(*written, at::kCPU).values, rounded_values(student)));
  EXPECT_FALSE(at::equal(student.values, rounded_values(student)));
}

}  // namespace
}  // namespace retort
