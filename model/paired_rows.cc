#include "model/paired_rows.h"

#include <algorithm>

namespace retort {
namespace {

constexpr int64_t kPanel = PairedRows::kPanel;
constexpr int64_t kBlockPairs = 128;  // of both panels: they stay in the first cache

}  // namespace

void PairedRows::reshape(int64_t tokens, int64_t features) {
  tokens_ = tokens;
  features_ = features;
  pairs_.resize(static_cast<size_t>(panels() * pairs() * kPanel));
}

void PairedRows::pack(const uint16_t* rows, int64_t panel) {
  const int64_t first = panel * kPanel, width = std::min(kPanel, features_ - first);
  uint32_t* out = pairs_.data() + panel * pairs() * kPanel;
  for (int64_t token = 0; token < tokens_; token += 2, out += kPanel) {
    const uint16_t *one = rows + token * features_ + first, *other = one + features_;
    const bool paired = token + 1 < tokens_;
    for (int64_t i = 0; i < width; ++i)
      out[i] = one[i] | (paired ? static_cast<uint32_t>(other[i]) << 16 : uint32_t{0});
    std::fill(out + width, out + kPanel, 0u);
  }
}

void PairedRows::add_products(int64_t row_panel, int64_t col_panel, float* sums) const {
  alignas(64) float block[kPanel * kPanel] = {};
  for (int64_t pair = 0; pair < pairs(); pair += kBlockPairs)
    for (int64_t row = 0; row < kPanel; row += kPairRows)
      add_pair_products({panel(row_panel) + pair * kPanel + row, 1, kPanel}, panel(col_panel) + pair * kPanel,
                        std::min(kBlockPairs, pairs() - pair), block + row * kPanel, kPanel);
  const int64_t first_row = row_panel * kPanel, first_col = col_panel * kPanel;
  const int64_t rows = std::min(kPanel, features_ - first_row), cols = std::min(kPanel, features_ - first_col);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) sums[(first_row + i) * features_ + first_col + j] += block[i * kPanel + j];
}

}  // namespace retort
