#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/error.h"

namespace retort {
namespace {

// splitmix64 (Steele, Lea and Flood, OOPSLA 2014): 64 bits of state, the same on every machine.
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

struct Candidate {
  double weight;
  int32_t id;
};

// Likeliest first, lower ids first among equals.
bool before(const Candidate& a, const Candidate& b) { return a.weight != b.weight ? a.weight > b.weight : a.id < b.id; }

// The shortest head of the sorted candidates whose weights reach `share` of their sum (nucleus sampling,
// arXiv:1904.09751).
void keep_nucleus(std::vector<Candidate>& candidates, double share) {
  double total = 0, sum = 0;
  for (const Candidate& c : candidates) total += c.weight;
  size_t kept = 0;
  while (kept < candidates.size() && (kept == 0 || sum < share * total)) sum += candidates[kept++].weight;
  candidates.resize(kept);
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options) : options_(options), state_(options.seed) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature))
    fail_usage("generate", "temperature", "it must be a number of at least 0");
  if (options.top_k < 0) fail_usage("generate", "top-k", "it must be at least 0");
  if (!(options.top_p > 0 && options.top_p <= 1)) fail_usage("generate", "top-p", "it must be above 0 and at most 1");
}

int32_t Sampler::next(std::span<const float> logits) {
  if (!std::ranges::all_of(logits, [](float logit) { return std::isfinite(logit); }))
    fail("generate", "logits", "they are not finite",
         "`retort inspect` and `retort eval` show what is wrong with the model");
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options_.temperature == 0) return static_cast<int32_t>(best - logits.begin());
  std::vector<Candidate> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i)
    candidates[i] = {std::exp((static_cast<double>(logits[i]) - *best) / options_.temperature),
                     static_cast<int32_t>(i)};
  std::sort(candidates.begin(), candidates.end(), before);
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates.size())
    candidates.resize(static_cast<size_t>(options_.top_k));
  if (options_.top_p < 1) keep_nucleus(candidates, options_.top_p);
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  double point = static_cast<double>(next_random(state_) >> 11) * 0x1p-53 * total;
  for (const Candidate& c : candidates)
    if ((point -= c.weight) < 0) return c.id;
  return candidates.back().id;
}

std::vector<int32_t> generate(Engine& engine, std::span<const int32_t> prompt, int64_t max_new_tokens,
                              const SamplingOptions& sampling, std::span<const int64_t> stop_ids, Context& context,
                              const std::function<bool(int32_t)>& on_token) {
  if (prompt.empty())
    fail("generate", "prompt", "it has no tokens", "Give a text, or a model whose tokenizer adds BOS");
  Sampler sampler(sampling);
  std::vector<int32_t> ids;
  if (max_new_tokens <= 0) return ids;
  const auto session = engine.new_session(static_cast<int64_t>(prompt.size()) + max_new_tokens);
  std::vector<float> logits(static_cast<size_t>(engine.config().vocab_size));
  engine.forward(*session, prompt, 1, logits);
  while (true) {
    context.check_interrupted();
    const int32_t id = sampler.next(logits);
    if (std::ranges::find(stop_ids, id) != stop_ids.end()) return ids;
    ids.push_back(id);
    if ((on_token && !on_token(id)) || static_cast<int64_t>(ids.size()) == max_new_tokens) return ids;
    engine.forward(*session, {&id, 1}, 1, logits);
  }
}

}  // namespace retort
