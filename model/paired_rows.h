// Sums of outer products of bfloat16 rows, by pair products.
#pragma once

#include <cstdint>
#include <vector>

#include "model/pair_products.h"

namespace retort {

// Rows [tokens, features] with two tokens side by side, in panels of kPanel features: the order in which the dot
// products read them. Features beyond the last, and the second token of an odd last pair, are zeros.
class PairedRows {
 public:
  static constexpr int64_t kPanel = kPairPanel;

  // What an earlier shape held is lost; memory is kept.
  void reshape(int64_t tokens, int64_t features);
  int64_t panels() const { return (features_ + kPanel - 1) / kPanel; }
  int64_t features() const { return features_; }
  // Lays out one panel of `rows`, bfloat16 [tokens, features].
  void pack(const uint16_t* rows, int64_t panel);
  // Adds the sums over all tokens of x_i x_j to sums[i * features + j], for the features i and j of two panels.
  void add_products(int64_t row_panel, int64_t col_panel, float* sums) const;

 private:
  const uint32_t* panel(int64_t index) const { return pairs_.data() + index * pairs() * kPanel; }
  int64_t pairs() const { return (tokens_ + 1) / 2; }

  int64_t tokens_ = 0, features_ = 0;
  std::vector<uint32_t> pairs_;  // [panels, pairs of tokens, kPanel]
};

}  // namespace retort
