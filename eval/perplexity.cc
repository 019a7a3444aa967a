#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/base/error.h"
#include "eval/divergence.h"

namespace retort {
namespace {

constexpr int64_t kLogitsInPiece = int64_t{1} << 21;  // 8 MiB of logits of each model per thread

// One window on its way: begun in both models, then scored piece by piece.
struct Job {
  std::vector<int32_t> tokens;
  std::unique_ptr<WindowLogits> model, reference;
  double log_probability = 0;
  std::vector<double> divergence;  // of each scored position
  int64_t agreed = 0;
};

struct Task {
  LogitsSource& model;
  LogitsSource* reference;
  std::span<const int32_t> ids;
  Convention convention;
  std::optional<int32_t> bos;
  Context& context;
};

void check(const Task& task) {
  const auto window = static_cast<size_t>(task.convention.window);
  const int64_t vocabulary = task.model.vocab_size();
  if (task.ids.size() < window)
    fail("eval", "text",
         "it has " + std::to_string(task.ids.size()) + " tokens, fewer than one window of " + std::to_string(window),
         "Give a longer text, or a --convention with shorter windows");
  if (task.reference && task.reference->vocab_size() != vocabulary)
    fail("eval", "reference",
         "its vocabulary has " + std::to_string(task.reference->vocab_size()) + " tokens, the model's " +
             std::to_string(vocabulary),
         "Compare models of one vocabulary");
  const auto outside = [&](int32_t id) { return id < 0 || id >= vocabulary; };
  if (std::any_of(task.ids.begin(), task.ids.end(), outside) || (task.bos && outside(*task.bos)))
    fail("eval", "text", "the tokenizer gives ids outside the model's vocabulary of " + std::to_string(vocabulary),
         "Check that the tokenizer belongs to the model");
}

std::vector<Job> make_jobs(const Task& task, int64_t first, int64_t count) {
  std::vector<Job> jobs(static_cast<size_t>(count));
  const auto size = static_cast<size_t>(task.convention.window);
  for (Job& job : jobs) {
    const auto window = task.ids.subspan(static_cast<size_t>(first++) * size, size);
    job.tokens.assign(window.begin(), window.end());
    if (task.convention.kind == Convention::Kind::kLlamaCpp && task.bos) job.tokens.front() = *task.bos;
  }
  return jobs;
}

void for_each_job(std::vector<Job>& jobs, bool concurrent, Context& context, const std::function<void(Job&)>& body) {
  const auto shard = [&](int64_t i) { body(jobs[static_cast<size_t>(i)]); };
  if (concurrent) return context.threads.run(static_cast<int64_t>(jobs.size()), shard);
  for (size_t i = 0; i < jobs.size(); ++i) shard(static_cast<int64_t>(i));
}

// The last token of a window predicts nothing that is scored, so the models do not see it.
std::unique_ptr<WindowLogits> begin(LogitsSource& source, const Task& task, const Job& job) {
  return source.start(std::span(job.tokens).first(job.tokens.size() - 1), task.convention.first_row());
}

void score_row(Job& job, int32_t next, std::span<const float> model, std::span<const float> reference) {
  const Distribution predicted(model);
  job.log_probability += static_cast<double>(static_cast<float>(predicted.log_probability(static_cast<size_t>(next))));
  if (reference.empty()) return;
  job.divergence.push_back(kl_divergence(Distribution(reference), predicted));
  job.agreed += most_probable(reference) == most_probable(model);
}

void score(const Task& task, Job& job) {
  const int64_t scored = task.convention.scored();
  const auto vocabulary = static_cast<size_t>(task.model.vocab_size());
  const int64_t piece = std::clamp<int64_t>(kLogitsInPiece / task.model.vocab_size(), 1, scored);
  std::vector<float> model(static_cast<size_t>(piece) * vocabulary), reference(task.reference ? model.size() : 0);
  const int32_t* next = job.tokens.data() + task.convention.first_row() + 1;
  for (int64_t done = 0; done < scored; done += piece) {
    const auto rows = static_cast<size_t>(std::min(piece, scored - done));
    job.model->next(static_cast<int64_t>(rows), std::span(model).first(rows * vocabulary));
    if (task.reference) job.reference->next(static_cast<int64_t>(rows), std::span(reference).first(rows * vocabulary));
    for (size_t row = 0; row < rows; ++row, ++next) {
      const auto of = [&](const std::vector<float>& all) {
        return std::span(all).subspan(row * vocabulary, vocabulary);
      };
      score_row(job, *next, of(model), task.reference ? of(reference) : std::span<const float>());
    }
  }
  job.model.reset();
  job.reference.reset();
}

void run_jobs(const Task& task, std::vector<Job>& jobs) {
  for_each_job(jobs, task.model.concurrent(), task.context,
               [&](Job& job) { job.model = begin(task.model, task, job); });
  if (task.reference)
    for_each_job(jobs, task.reference->concurrent(), task.context,
                 [&](Job& job) { job.reference = begin(*task.reference, task, job); });
  const bool concurrent = task.model.concurrent() && (!task.reference || task.reference->concurrent());
  for_each_job(jobs, concurrent, task.context, [&](Job& job) { score(task, job); });
}

EvalResult::Divergence summarize(std::vector<double> divergence, int64_t agreed) {
  const auto count = static_cast<double>(divergence.size());
  EvalResult::Divergence result;
  result.kl_mean = std::accumulate(divergence.begin(), divergence.end(), 0.0) / count;
  result.top1_agreement = static_cast<double>(agreed) / count;
  std::sort(divergence.begin(), divergence.end());
  result.kl_p99 = quantile(divergence, 0.99);
  result.kl_max = divergence.back();
  return result;
}

}  // namespace

EvalResult evaluate(LogitsSource& model, LogitsSource* reference, std::span<const int32_t> ids,
                    const Convention& convention, std::optional<int32_t> bos, Context& context) {
  const Task task{model, reference, ids, convention, bos, context};
  check(task);
  const auto start = std::chrono::steady_clock::now();
  const int64_t windows = static_cast<int64_t>(ids.size()) / convention.window;
  const int64_t wave = 2 * context.threads.size();
  double log_probability = 0;
  std::vector<double> divergence;
  int64_t agreed = 0;
  EvalResult result;
  context.progress.begin("eval", windows * convention.scored(), "tokens");
  for (int64_t first = 0; first < windows; first += wave) {
    context.check_interrupted();
    std::vector<Job> jobs = make_jobs(task, first, std::min(wave, windows - first));
    run_jobs(task, jobs);
    for (const Job& job : jobs) {
      log_probability += job.log_probability;
      divergence.insert(divergence.end(), job.divergence.begin(), job.divergence.end());
      agreed += job.agreed;
      result.tokens += convention.scored();
    }
    result.perplexity = std::exp(-log_probability / static_cast<double>(result.tokens));
    context.progress.update(result.tokens, fmt::format("perplexity {:.2f}", result.perplexity));
  }
  context.progress.end();
  if (!std::isfinite(log_probability)) fail("eval", "model", "its logits are not finite numbers", "Check its weights");
  if (reference) result.divergence = summarize(std::move(divergence), agreed);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace retort
