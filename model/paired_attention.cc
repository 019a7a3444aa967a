#include "model/paired_attention.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "model/pair_products.h"

namespace retort {
namespace {

constexpr int64_t kLanes = 16;

int64_t whole_panels(int64_t count) { return (count + kPairPanel - 1) / kPairPanel * kPairPanel; }

// The rows of one head, `stride` apart, of `size` values each.
struct HeadRows {
  HeadRows(const at::Tensor& states, int64_t batch, int64_t head)
      : values(reinterpret_cast<const uint16_t*>(states.const_data_ptr<at::BFloat16>()) + batch * states.stride(0) +
               head * states.stride(1)),
        tokens(states.size(2)),
        size(states.size(3)),
        stride(states.stride(2)) {}
  const uint16_t* row(int64_t token) const { return values + token * stride; }

  const uint16_t* values;
  int64_t tokens, size, stride;
};

// Keys and values in the order in which the products read them, with zeros up to whole panels of tokens.
class PackedHead {
 public:
  PackedHead(const HeadRows& keys, const HeadRows& values) : size_(keys.size), tokens_(whole_panels(keys.tokens)) {
    keys_.resize(static_cast<size_t>(tokens_ * size_ / 2));
    values_.resize(keys_.size());
    for (int64_t token = 0; token < keys.tokens; ++token) {
      add_key(keys.row(token), token);
      add_value(values.row(token), token);
    }
  }

  int64_t tokens() const { return tokens_; }
  // [size / 2, kPairPanel]: pairs along the head, for keys from `token` on, the first of a panel.
  const uint32_t* keys(int64_t token) const { return keys_.data() + token * size_ / 2; }
  // [(tokens - token) / 2, kPairPanel]: pairs of tokens, for one panel of the head's elements.
  const uint32_t* values(int64_t panel, int64_t token) const {
    return values_.data() + (panel * tokens_ + token) / 2 * kPairPanel;
  }

 private:
  void add_key(const uint16_t* row, int64_t token) {
    uint32_t* out = keys_.data() + token / kPairPanel * kPairPanel * size_ / 2 + token % kPairPanel;
    for (int64_t pair = 0; pair < size_ / 2; ++pair) std::memcpy(out + pair * kPairPanel, row + 2 * pair, 4);
  }
  void add_value(const uint16_t* row, int64_t token) {
    for (int64_t panel = 0; panel * kPairPanel < size_; ++panel) {
      uint32_t* out = values_.data() + (panel * tokens_ / 2 + token / 2) * kPairPanel;
      for (int64_t i = 0; i < kPairPanel; ++i)
        out[i] |= static_cast<uint32_t>(row[panel * kPairPanel + i]) << (token % 2 * 16);
    }
  }

  int64_t size_, tokens_;
  std::vector<uint32_t> keys_, values_;
};

// e^x for x <= 0: 2^n times a polynomial of what is left, at most half of ln 2 (Taylor, error below 2^-22).
__attribute__((target("avx512f"))) inline __m512 exponential(__m512 x) {
  constexpr __mmask16 kAll = 0xffff;                          // GCC 12 warns of the forms without a mask
  x = _mm512_maskz_max_ps(kAll, _mm512_set1_ps(-104.0f), x);  // below, the result is 0 in float32; a NaN stays one
  const __m512 n = _mm512_maskz_roundscale_ps(kAll, _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.0f / 720);
  for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
  return _mm512_maskz_scalef_ps(kAll, sum, n);
}

// Lanes of tokens i .. i + 15 that lie in [first, last).
__mmask16 lanes_within(int64_t i, int64_t first, int64_t last) {
  const int64_t from = std::clamp<int64_t>(first - i, 0, kLanes), to = std::clamp<int64_t>(last - i, 0, kLanes);
  return static_cast<__mmask16>(((1u << to) - 1) & ~((1u << from) - 1));
}

__attribute__((target("avx512f"))) std::array<float, kLanes> lanes_of(const __m512& values) {
  std::array<float, kLanes> lanes;
  _mm512_storeu_ps(lanes.data(), values);
  return lanes;
}

// A row of scores for the tokens from `begin` on; those in [first, last) are seen.
struct ScoreRow {
  const float* scores;
  int64_t begin, end, first, last;
};

// Weights e^(scale * (score - largest)) in pairs, 0 for what is not seen; gives their sum.
__attribute__((target("avx512f,avx512bf16"))) float weigh(const ScoreRow& row, float scale, uint32_t* weights) {
  __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  for (int64_t i = row.begin; i < row.end; i += kLanes)
    most = _mm512_mask_max_ps(most, lanes_within(i, row.first, row.last), most, _mm512_loadu_ps(row.scores + i));
  const __m512 largest = _mm512_set1_ps(std::ranges::max(lanes_of(most))), factor = _mm512_set1_ps(scale);
  for (int64_t i = row.begin; i < row.end; i += kLanes) {
    const __m512 below = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row.scores + i), largest), factor);
    const __m512 weight = _mm512_maskz_mov_ps(lanes_within(i, row.first, row.last), exponential(below));
    sum = _mm512_add_ps(sum, weight);
    const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + i / 2), rounded);
  }
  const std::array<float, kLanes> sums = lanes_of(sum);
  return std::accumulate(sums.begin(), sums.end(), 0.0f);
}

__attribute__((target("avx512f,avx512bf16"))) void store_divided(const float* sums, float divisor, int64_t size,
                                                                 uint16_t* out) {
  const __m512 factor = _mm512_set1_ps(1.0f / divisor);
  for (int64_t i = 0; i < size; i += kLanes) {
    const auto rounded =
        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(sums + i), factor)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), rounded);
  }
}

// The queries of one head, kPairRows at a time.
class HeadAttention {
 public:
  HeadAttention(int64_t size, int64_t tokens, int64_t window)
      : size_(size),
        tokens_(whole_panels(tokens)),
        window_(window == 0 ? tokens : window),
        scale_(1.0f / std::sqrt(static_cast<float>(size))),
        queries_(static_cast<size_t>(kPairRows * size / 2)),
        scores_(static_cast<size_t>(kPairRows * tokens_)),
        weights_(scores_.size() / 2),
        sums_(static_cast<size_t>(kPairRows * size)) {}

  void attend(const HeadRows& queries, const PackedHead& packed, uint16_t* out, int64_t out_stride) {
    for (int64_t first = 0; first < queries.tokens; first += kPairRows) {
      const int64_t count = std::min(kPairRows, queries.tokens - first);
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(queries_.data() + i * size_ / 2, queries.row(first + i), static_cast<size_t>(size_) * 2);
      const int64_t begin = std::max<int64_t>(0, first - window_ + 1) / kPairPanel * kPairPanel;
      attend_block(packed, first, count, begin, whole_panels(first + count));
      for (int64_t i = 0; i < count; ++i)
        store_divided(sums_.data() + i * size_, divisors_[i], size_, out + (first + i) * out_stride);
    }
  }

 private:
  // Of queries [first, first + count) and keys [begin, end).
  void attend_block(const PackedHead& packed, int64_t first, int64_t count, int64_t begin, int64_t end) {
    std::ranges::fill(scores_, 0.0f);
    for (int64_t token = begin; token < end; token += kPairPanel)
      add_pair_products({queries_.data(), size_ / 2, 1}, packed.keys(token), size_ / 2, scores_.data() + token,
                        tokens_);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t query = first + i, seen = std::max<int64_t>(0, query - window_ + 1);
      divisors_[i] =
          weigh({scores_.data() + i * tokens_, begin, end, seen, query + 1}, scale_, weights_.data() + i * tokens_ / 2);
    }
    std::ranges::fill(sums_, 0.0f);
    for (int64_t panel = 0; panel * kPairPanel < size_; ++panel)
      add_pair_products({weights_.data() + begin / 2, tokens_ / 2, 1}, packed.values(panel, begin), (end - begin) / 2,
                        sums_.data() + panel * kPairPanel, size_);
  }

  const int64_t size_, tokens_, window_;
  const float scale_;
  std::vector<uint32_t> queries_;  // [kPairRows, size / 2]
  std::vector<float> scores_;      // [kPairRows, tokens]
  std::vector<uint32_t> weights_;  // the same, in pairs of bfloat16
  std::vector<float> sums_;        // [kPairRows, size]
  std::array<float, kPairRows> divisors_ = {};
};

at::Tensor with_dense_heads(const at::Tensor& states) { return states.stride(-1) == 1 ? states : states.contiguous(); }

}  // namespace

bool attends_in_pairs(const at::Tensor& queries, const at::Tensor& keys) {
  return queries.is_cpu() && queries.scalar_type() == at::kBFloat16 && queries.size(2) == keys.size(2) &&
         queries.size(3) % kPairPanel == 0 && !at::GradMode::is_enabled() && has_pair_products();
}

at::Tensor attend_in_pairs(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                           int64_t window) {
  const at::Tensor q = with_dense_heads(queries), k = with_dense_heads(keys), v = with_dense_heads(values);
  const int64_t heads = q.size(1), shared = heads / k.size(1), tokens = q.size(2), size = q.size(3);
  at::Tensor result = at::empty({q.size(0), tokens, heads, size}, q.options());
  auto* out = reinterpret_cast<uint16_t*>(result.mutable_data_ptr<at::BFloat16>());
  HeadAttention attention(size, tokens, window);
  for (int64_t batch = 0; batch < q.size(0); ++batch, out += tokens * heads * size)
    for (int64_t group = 0; group < k.size(1); ++group) {
      const PackedHead packed({k, batch, group}, {v, batch, group});
      for (int64_t head = group * shared; head < (group + 1) * shared; ++head)
        attention.attend({q, batch, head}, packed, out + head * size, heads * size);
    }
  return result.transpose(1, 2);
}

}  // namespace retort
