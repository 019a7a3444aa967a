// The adapters, and perplexity as a whole against transformers (tests/golden/perplexity.json, make_perplexity.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "core/base/error.h"
#include "core/base/files.h"
#include "eval/perplexity.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = RETORT_SOURCE_DIR;

class Sources : public ::testing::Test {
 protected:
  ThreadPool pool{2};
  ProgressSink silent;
  Context context{pool, silent};
};

// Rows in pieces and from the middle are the rows of the whole window.
TEST_F(Sources, PiecesAreRowsOfTheWholeWindow) {
  const auto model = open_model(kRoot / "tests/golden/families/mistral");
  for (const char* backend : {"torch", "runtime"}) {
    const auto source = make_source(*model, backend, context);
    const auto vocabulary = static_cast<size_t>(source->vocab_size());
    std::vector<int32_t> window(30);
    for (size_t i = 0; i < window.size(); ++i) window[i] = static_cast<int32_t>(i * 7 % vocabulary);
    std::vector<float> whole(window.size() * vocabulary), pieces(20 * vocabulary);
    source->logits(window, 0, whole);
    const auto begun = source->start(window, 10);
    begun->next(13, std::span(pieces).first(13 * vocabulary));
    begun->next(7, std::span(pieces).subspan(13 * vocabulary));
    for (size_t i = 0; i < pieces.size(); ++i) ASSERT_NEAR(pieces[i], whole[10 * vocabulary + i], 2e-5) << backend;
  }
}

TEST_F(Sources, BackendIsChosenByTheWeightsOrByName) {
  const auto model = open_model(kRoot / "tests/golden/families/llama");
  const std::string_view automatic = make_source(*model, "", context)->backend();
  EXPECT_EQ(automatic, torch_source(*model, context)->backend());
  EXPECT_EQ(make_source(*model, "runtime", context)->backend(), "runtime");
  EXPECT_THROW(make_source(*model, "onnx", context), Error);
}

TEST_F(Sources, RefusesWhatDoesNotFitIntoTheMemoryLimit) {
  context.memory_limit = 1 << 20;
  const auto model = open_model(kRoot / "tests/golden/families/llama");
  EXPECT_THROW(make_source(*model, "", context), Error);
}

// The teacher with its last layer left out.
void write_shorter_teacher(const fs::path& directory) {
  const auto teacher = open_model(kRoot / "recipes/quickstart/teacher");
  const int64_t last = teacher->config().layers - 1;
  std::vector<int64_t> kept(static_cast<size_t>(last));
  std::iota(kept.begin(), kept.end(), 0);
  ModelWriter writer(directory, teacher->side_files());
  for (const ModelTensor& tensor : teacher->tensors()) {
    if (match_tensor(teacher->config(), tensor.name)->layer == last) continue;
    std::vector<std::byte> bytes(tensor.bytes);
    teacher->read_dense(tensor, 0, tensor.rows(), bytes);
    writer.add_dense(tensor.name, *tensor.scheme.dense, tensor.shape, bytes);
  }
  writer.finish(config_with_layers(teacher->config(), kept), nullptr);
}

class Perplexity : public Sources {
 protected:
  const Json golden = read_json_file(kRoot / "tests/golden/perplexity.json");
  const std::vector<int32_t> ids = golden["ids"].get<std::vector<int32_t>>();
  const std::unique_ptr<ModelSource> teacher = open_model(kRoot / "recipes/quickstart/teacher");

  static void expect_close(double value, const Json& expected) { EXPECT_NEAR(value / expected.get<double>(), 1, 1e-4); }
};

TEST_F(Perplexity, EqualsTransformersInEachConvention) {
  const auto source = torch_source(*teacher, context);
  for (const auto& [convention, expected] : golden["model"].items()) {
    const EvalResult result = evaluate(*source, nullptr, ids, parse_convention(convention), {}, context);
    EXPECT_EQ(result.tokens, expected["tokens"]) << convention;
    expect_close(result.perplexity, expected["perplexity"]);
  }
}

TEST_F(Perplexity, DivergenceEqualsTransformers) {
  const testing::TempDir directory;
  write_shorter_teacher(directory.path());
  const auto source = torch_source(*open_model(directory.path()), context);
  const auto reference = torch_source(*teacher, context);
  const EvalResult result = evaluate(*source, reference.get(), ids, parse_convention("windows-256"), {}, context);
  const Json& expected = golden["without its last layer"]["windows-256"];
  expect_close(result.perplexity, expected["perplexity"]);
  expect_close(result.divergence->kl_mean, expected["kl_mean"]);
  expect_close(result.divergence->kl_p99, expected["kl_p99"]);
  expect_close(result.divergence->kl_max, expected["kl_max"]);
  expect_close(result.divergence->top1_agreement, expected["top1_agreement"]);
}

TEST_F(Perplexity, IsTheSameForAnyNumberOfThreads) {
  const std::span<const int32_t> some = std::span(ids).first(1000);
  std::vector<double> values;
  for (const int threads : {1, 2, 5}) {
    ThreadPool own(threads);
    Context local{own, silent};
    const auto source = torch_source(*teacher, local);
    values.push_back(evaluate(*source, nullptr, some, parse_convention("windows-100"), {}, local).perplexity);
  }
  EXPECT_THAT(values, ::testing::Each(values[0]));
}

}  // namespace
}  // namespace retort
