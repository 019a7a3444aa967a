// What is measured at one position, from the logits of the whole vocabulary.
#pragma once

#include <cstdint>
#include <span>

namespace retort {

// softmax(logits), of which only the total is computed at once. The logits outlive it.
class Distribution {
 public:
  explicit Distribution(std::span<const float> logits);
  size_t size() const { return logits_.size(); }
  // log softmax(logits)[id]; the sum of exponentials is taken in float64.
  double log_probability(size_t id) const { return static_cast<double>(logits_[id]) - log_total_; }

 private:
  std::span<const float> logits_;
  double log_total_;  // log(sum(exp(logits)))
};

// KL(reference || model) in nats; the two have the same size.
double kl_divergence(const Distribution& reference, const Distribution& model);
// The id with the largest logit, the lowest among equals.
int64_t most_probable(std::span<const float> logits);
// Of values in ascending order, at least one: linear between neighbours, quantile(v, 1) the last.
double quantile(std::span<const double> ascending, double share);

}  // namespace retort
