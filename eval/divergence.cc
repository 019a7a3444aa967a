#include "eval/divergence.h"

#include <algorithm>
#include <cmath>

namespace retort {

Distribution::Distribution(std::span<const float> logits) : logits_(logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += static_cast<double>(std::exp(logit - largest));
  log_total_ = static_cast<double>(largest) + std::log(total);
}

double kl_divergence(const Distribution& reference, const Distribution& model) {
  double sum = 0;
  for (size_t id = 0; id < reference.size(); ++id) {
    const double log_p = reference.log_probability(id);
    const double p = static_cast<double>(std::exp(static_cast<float>(log_p)));
    if (p > 0) sum += p * (log_p - model.log_probability(id));
  }
  return std::max(sum, 0.0);  // float32 exponentials leave an error of 1e-8, of either sign
}

int64_t most_probable(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

double quantile(std::span<const double> ascending, double share) {
  const double position = share * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, ascending.size() - 1);
  return ascending[below] + (position - static_cast<double>(below)) * (ascending[above] - ascending[below]);
}

}  // namespace retort
