#include "model/shards.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "model/decoder.h"

namespace retort {
namespace {

// Loss and gradient of 16 shards of one model, summed in their order.
std::vector<at::Tensor> sharded_gradients(int threads) {
  ThreadPool pool(threads);
  ProgressSink silent;
  const Context context{pool, silent};
  const auto source = open_model(std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart/teacher");
  const DecoderWeights weights = load_weights(*source);
  std::vector<std::vector<at::Tensor>> results(16);
  run_shards(context, 16, [&](int64_t i) {
    DecoderWeights own = weights;
    at::Tensor& down = own.layers[2](Role::kDown);
    down = down.detach().requires_grad_(true);
    const at::Tensor ids = (at::arange(64).unsqueeze(0) * (i + 3)).remainder(source->config().vocab_size);
    const at::Tensor loss = forward_logits(source->config(), own, ids).log_softmax(-1).select(-1, 7).mean();
    loss.backward();
    results[static_cast<size_t>(i)] = {loss.detach(), down.grad()};
  });
  std::vector<at::Tensor> sum = results[0];
  for (size_t i = 1; i < results.size(); ++i)
    for (size_t k = 0; k < sum.size(); ++k) sum[k] = sum[k] + results[i][k];
  return sum;
}

TEST(Shards, ResultsDoNotDependOnTheNumberOfThreads) {
  const auto alone = sharded_gradients(1);
  for (const int threads : {2, 5}) {
    const auto many = sharded_gradients(threads);
    EXPECT_TRUE(at::equal(alone[0], many[0])) << threads;
    EXPECT_TRUE(at::equal(alone[1], many[1])) << threads;
  }
}

TEST(Shards, TorchHasOneThreadInEachShard) {
  ThreadPool pool(3);
  ProgressSink silent;
  const Context context{pool, silent};
  std::vector<int> threads(32);
  run_shards(context, 32, [&](int64_t i) { threads[static_cast<size_t>(i)] = at::get_num_threads(); });
  EXPECT_THAT(threads, testing::Each(1));
}

TEST(Device, ParsesAndRefuses) {
  EXPECT_EQ(parse_device("cpu"), at::Device(at::kCPU));
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", ""}) EXPECT_THROW(parse_device(name), Error);
}

// Where there is a GPU the device is given, elsewhere the error says what is missing: never a crash.
TEST(Device, CudaIsThereOrRefusedWithTheReason) {
  try {
    EXPECT_TRUE(parse_device("cuda").is_cuda());
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("[device] cuda"), testing::HasSubstr("--device cpu")));
  }
}

}  // namespace
}  // namespace retort
