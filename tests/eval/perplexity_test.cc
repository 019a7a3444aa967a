// The conventions and measures against sums written out by hand, over a source whose logits are known.
#include "eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "core/base/error.h"
#include "eval/divergence.h"

namespace retort {
namespace {

constexpr int64_t kVocabulary = 5;

// The logit of `next` after `last` at `position` of a window that begins with `head`.
using Rule = std::function<float(int32_t head, int64_t position, int32_t last, int64_t next)>;

class ToySource : public LogitsSource {
 public:
  ToySource(Rule rule, bool concurrent, int64_t vocabulary = kVocabulary)
      : rule_(std::move(rule)), concurrent_(concurrent), vocabulary_(vocabulary) {}
  int64_t vocab_size() const override { return vocabulary_; }
  bool concurrent() const override { return concurrent_; }
  std::string_view backend() const override { return "toy"; }
  std::unique_ptr<WindowLogits> start(std::span<const int32_t> window, int64_t first_row) override {
    return std::make_unique<Window>(*this, window, first_row);
  }

 private:
  struct Window : WindowLogits {
    Window(ToySource& toy, std::span<const int32_t> tokens, int64_t first) : source(toy), window(tokens), row(first) {}
    void next(int64_t rows, std::span<float> out) override {
      ASSERT_EQ(static_cast<int64_t>(out.size()), rows * source.vocabulary_);
      for (size_t i = 0; i < out.size(); ++i) {
        const int64_t position = row + static_cast<int64_t>(i) / source.vocabulary_;
        out[i] = source.rule_(window[0], position, window[static_cast<size_t>(position)],
                              static_cast<int64_t>(i) % source.vocabulary_);
      }
      row += rows;
    }
    ToySource& source;
    std::span<const int32_t> window;
    int64_t row;
  };
  Rule rule_;
  bool concurrent_;
  int64_t vocabulary_;
};

float wavy(int32_t head, int64_t position, int32_t last, int64_t next) {
  return std::sin(static_cast<float>(7 * head + 3 * position + 5 * last + 11 * next));
}
float flat(int32_t, int64_t, int32_t, int64_t) { return 2.5f; }

class Evaluate : public testing::Test {
 protected:
  ThreadPool pool{2};
  ProgressSink silent;
  Context context{pool, silent};
  const std::vector<int32_t> ids{3, 1, 4, 1, 0, 2, 2, 4, 3, 3, 1, 0, 4};

  double expected_nll(const Rule& rule, int32_t head, int64_t position, int32_t last, int32_t next) const {
    double total = 0;
    for (int64_t i = 0; i < kVocabulary; ++i) total += std::exp(static_cast<double>(rule(head, position, last, i)));
    return std::log(total) - static_cast<double>(rule(head, position, last, next));
  }
};

TEST_F(Evaluate, AUniformModelHasThePerplexityOfItsVocabulary) {
  ToySource model(flat, true);
  const EvalResult result = evaluate(model, nullptr, ids, parse_convention("windows-4"), {}, context);
  EXPECT_EQ(result.tokens, 9);  // 3 windows of 4, the 13th token dropped
  EXPECT_NEAR(result.perplexity, 5.0, 1e-6);
  EXPECT_FALSE(result.divergence.has_value());
}

TEST_F(Evaluate, WindowsScoreAllButTheFirstToken) {
  ToySource model(wavy, true);
  const EvalResult result = evaluate(model, nullptr, ids, parse_convention("windows-6"), /*bos=*/2, context);
  double nll = 0;
  for (int64_t w = 0; w < 2; ++w)
    for (int64_t t = 0; t < 5; ++t) {
      const auto at = [&](int64_t i) { return ids[static_cast<size_t>(6 * w + i)]; };
      nll += expected_nll(wavy, at(0), t, at(t), at(t + 1));
    }
  EXPECT_EQ(result.tokens, 10);
  EXPECT_NEAR(result.perplexity, std::exp(nll / 10), 1e-6);
}

// llama-perplexity: rows n/2 .. n-2, the first token of the window replaced by BOS.
TEST_F(Evaluate, LlamaCppScoresTheSecondHalfBehindBos) {
  ToySource model(wavy, true);
  for (const std::optional<int32_t> bos : {std::optional<int32_t>(2), std::optional<int32_t>()}) {
    double nll = 0;
    for (int64_t w = 0; w < 2; ++w)
      for (int64_t t = 3; t <= 4; ++t) {
        const auto at = [&](int64_t i) { return i == 0 && bos ? *bos : ids[static_cast<size_t>(6 * w + i)]; };
        nll += expected_nll(wavy, at(0), t, at(t), at(t + 1));
      }
    const EvalResult result = evaluate(model, nullptr, ids, parse_convention("llama.cpp-6"), bos, context);
    EXPECT_EQ(result.tokens, 4);
    EXPECT_NEAR(result.perplexity, std::exp(nll / 4), 1e-6);
  }
}

TEST_F(Evaluate, DivergenceIsThatOfTheReferenceFromTheModel) {
  ToySource model(flat, true), reference(wavy, false);
  const EvalResult result = evaluate(model, &reference, ids, parse_convention("windows-6"), {}, context);
  std::vector<double> divergences;
  int64_t agreed = 0;
  for (int64_t w = 0; w < 2; ++w)
    for (int64_t t = 0; t < 5; ++t) {
      const int32_t head = ids[static_cast<size_t>(6 * w)], last = ids[static_cast<size_t>(6 * w + t)];
      double divergence = 0, best = -1;
      int64_t best_id = -1;
      for (int32_t i = 0; i < kVocabulary; ++i) {
        const double p = std::exp(-expected_nll(wavy, head, t, last, i));
        divergence += p * std::log(p * kVocabulary);
        if (p > best) best = p, best_id = i;
      }
      divergences.push_back(divergence);
      agreed += best_id == 0;  // the lowest among the equals of a flat model
    }
  ASSERT_TRUE(result.divergence.has_value());
  std::sort(divergences.begin(), divergences.end());
  EXPECT_NEAR(result.divergence->kl_mean, std::accumulate(divergences.begin(), divergences.end(), 0.0) / 10, 1e-6);
  EXPECT_NEAR(result.divergence->kl_max, divergences.back(), 1e-6);
  EXPECT_NEAR(result.divergence->kl_p99, divergences[8] + 0.91 * (divergences[9] - divergences[8]), 1e-6);
  EXPECT_DOUBLE_EQ(result.divergence->top1_agreement, static_cast<double>(agreed) / 10);
}

TEST_F(Evaluate, AModelDoesNotDivergeFromItself) {
  ToySource model(wavy, true), reference(wavy, true);
  const auto divergence = evaluate(model, &reference, ids, parse_convention("windows-4"), {}, context).divergence;
  EXPECT_EQ(divergence->kl_max, 0);
  EXPECT_EQ(divergence->top1_agreement, 1);
}

TEST_F(Evaluate, IsTheSameForAnyNumberOfThreads) {
  std::vector<int32_t> text(5000);
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int32_t>(i * i % 5);
  std::vector<EvalResult> results;
  for (const int threads : {1, 2, 7})
    for (const bool concurrent : {true, false}) {
      ThreadPool many(threads);
      Context own{many, silent};
      ToySource model(wavy, true), reference([](auto... x) { return 1.1f * wavy(x...); }, concurrent);
      results.push_back(evaluate(model, &reference, text, parse_convention("windows-9"), {}, own));
    }
  for (const EvalResult& result : results) {
    EXPECT_EQ(result.tokens, 555 * 8);
    EXPECT_EQ(result.perplexity, results[0].perplexity);
    EXPECT_EQ(result.divergence->kl_mean, results[0].divergence->kl_mean);
    EXPECT_EQ(result.divergence->kl_p99, results[0].divergence->kl_p99);
  }
}

// A vocabulary so large that a window's logits come in several pieces.
TEST_F(Evaluate, PiecesOfAWindowFollowEachOther) {
  constexpr int64_t kLarge = 700'000;
  ToySource model([](int32_t, int64_t position, int32_t, int64_t next) { return next == position ? 20.0f : 0.0f; },
                  true, kLarge);
  const std::vector<int32_t> counting{9, 0, 1, 2, 3, 4, 5, 6};  // row t predicts token t
  const EvalResult result = evaluate(model, nullptr, counting, parse_convention("windows-8"), {}, context);
  EXPECT_NEAR(result.perplexity, (std::exp(20.0) + kLarge - 1) / std::exp(20.0), 1e-6);
}

TEST_F(Evaluate, ReportsProgressInTokens) {
  struct Sink : ProgressSink {
    void begin(std::string_view, int64_t total, std::string_view unit) override { all = total, what = unit; }
    void update(int64_t done, std::string_view) override { last = done; }
    int64_t all = 0, last = 0;
    std::string what;
  } sink;
  Context own{pool, sink};
  ToySource model(flat, true);
  evaluate(model, nullptr, ids, parse_convention("windows-2"), {}, own);
  EXPECT_EQ(sink.all, 6);
  EXPECT_EQ(sink.last, 6);
  EXPECT_EQ(sink.what, "tokens");
}

TEST_F(Evaluate, RefusesWhatCannotBeCompared) {
  ToySource model(flat, true), larger(flat, true, kVocabulary + 1);
  const Convention windows = parse_convention("windows-4");
  const auto message = [&](LogitsSource* reference, std::vector<int32_t> text) -> std::string {
    try {
      evaluate(model, reference, text, windows, {}, context);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message(&larger, ids), testing::HasSubstr("vocabulary"));
  EXPECT_THAT(message(nullptr, {1, 2, 3}), testing::HasSubstr("fewer than one window"));
  EXPECT_THAT(message(nullptr, {1, 2, 3, 5}), testing::HasSubstr("outside"));
  EXPECT_THAT(message(nullptr, {1, 2, 3, -1}), testing::HasSubstr("outside"));
  ToySource broken([](int32_t, int64_t, int32_t, int64_t next) { return next == 3 ? std::nanf("") : 0.0f; }, true);
  EXPECT_THROW(evaluate(broken, nullptr, ids, windows, {}, context), Error);
}

TEST(Convention, ParsesAndRefuses) {
  EXPECT_EQ(parse_convention("windows-512").first_row(), 0);
  EXPECT_EQ(parse_convention("llama.cpp-512").first_row(), 256);
  EXPECT_EQ(parse_convention("llama.cpp-512").scored(), 255);
  for (const char* name : {"windows-2", "windows-512", "llama.cpp-256", "llama.cpp-3"})
    EXPECT_EQ(name_of(parse_convention(name)), name);
  for (const char* name : {"windows", "windows-", "windows-1", "windows-0", "windows--4", "windows-4x", "llama.cpp-2",
                           "llamacpp-256", "windows-99999999999999999999", "", "strided-512"})
    EXPECT_THROW(parse_convention(name), Error) << name;
}

TEST(Convention, DefaultFollowsTheContextLength) {
  ModelConfig config;
  config.context_length = 256;
  EXPECT_EQ(name_of(default_convention(config)), "windows-256");
  config.context_length = 131072;
  EXPECT_EQ(name_of(default_convention(config)), "windows-512");
}

TEST(Quantile, IsLinearBetweenNeighbours) {
  const std::vector<double> values{1, 2, 4};
  EXPECT_EQ(quantile(values, 0), 1);
  EXPECT_EQ(quantile(values, 0.5), 2);
  EXPECT_EQ(quantile(values, 0.75), 3);
  EXPECT_EQ(quantile(values, 1), 4);
  EXPECT_EQ(quantile(std::vector<double>{7}, 0.99), 7);
}

}  // namespace
}  // namespace retort
