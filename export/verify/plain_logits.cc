#include "export/verify/plain_logits.h"

#include <algorithm>
#include <cmath>

namespace retort {
namespace {

constexpr int64_t kRunElements = int64_t{1} << 16;

class PlainDecoder {
 public:
  PlainDecoder(const ModelSource& source, std::span<const int32_t> ids, const Context& context)
      : source_(source),
        c_(source.config()),
        context_(context),
        ids_(ids),
        tokens_(static_cast<int64_t>(ids.size())),
        frequencies_(rope_frequencies(c_, tokens_)) {}

  std::vector<float> logits() {
    Features hidden = embedding();
    for (layer_ = 0; layer_ < c_.layers; ++layer_) {
      add(hidden, attention(normed(Role::kAttentionNorm, hidden)));
      add(hidden, feed_forward(normed(Role::kFfnNorm, hidden)));
    }
    layer_ = -1;
    return by_token(linear(c_.tied_embeddings ? Role::kEmbedding : Role::kHead, normed(Role::kFinalNorm, hidden)));
  }

 private:
  using Features = std::vector<float>;  // [features, tokens]

  float& at(Features& x, int64_t feature, int64_t token) { return x[static_cast<size_t>(feature * tokens_ + token)]; }
  Features zeros(int64_t features) const { return Features(static_cast<size_t>(features * tokens_)); }
  const ModelTensor& weight(Role role) const { return source_.at(tensor_name(c_, role, layer_)); }

  Features embedding() {
    const ModelTensor& tensor = weight(Role::kEmbedding);
    Features out = zeros(tensor.cols());
    std::vector<float> row(static_cast<size_t>(tensor.cols()));
    for (int64_t t = 0; t < tokens_; ++t) {
      source_.read_f32(tensor, ids_[static_cast<size_t>(t)], 1, row);
      for (int64_t i = 0; i < tensor.cols(); ++i) at(out, i, t) = row[static_cast<size_t>(i)];
    }
    return out;
  }

  Features linear(Role role, const Features& x) {
    context_.check_interrupted();
    const ModelTensor& tensor = weight(role);
    Features out = zeros(tensor.rows());
    const int64_t step = std::max<int64_t>(1, kRunElements / tensor.cols());
    context_.threads.run_ranges(tensor.rows(), step, [&](int64_t first, int64_t last) {
      std::vector<float> rows(static_cast<size_t>((last - first) * tensor.cols()));
      source_.read_f32(tensor, first, last - first, rows);
      for (int64_t row = first; row < last; ++row)
        multiply(rows.data() + (row - first) * tensor.cols(), tensor.cols(), x, &at(out, row, 0));
    });
    add_bias(role, out);
    return out;
  }

  void multiply(const float* row, int64_t cols, const Features& x, float* out) const {
    for (int64_t i = 0; i < cols; ++i)
      for (int64_t t = 0; t < tokens_; ++t) out[t] += row[i] * x[static_cast<size_t>(i * tokens_ + t)];
  }

  void add_bias(Role role, Features& out) {
    const std::string name = weight(role).name;
    const ModelTensor* bias = source_.find(name.substr(0, name.rfind('.')) + ".bias");
    if (bias == nullptr) return;
    const std::vector<float> values = source_.read_f32(*bias);
    for (int64_t i = 0; i < bias->rows(); ++i)
      for (int64_t t = 0; t < tokens_; ++t) at(out, i, t) += values[static_cast<size_t>(i)];
  }

  void add(Features& x, const Features& more) const {
    for (size_t i = 0; i < x.size(); ++i) x[i] += more[i];
  }

  // Of as many features at a time as the norm has weights: all, or those of a head.
  Features normed(Role role, Features x) {
    const std::vector<float> weights = source_.read_f32(weight(role));
    const auto size = static_cast<int64_t>(weights.size());
    for (int64_t first = 0; first * tokens_ < static_cast<int64_t>(x.size()); first += size)
      for (int64_t t = 0; t < tokens_; ++t) {
        double sum = 0;
        for (int64_t i = 0; i < size; ++i) sum += std::pow(static_cast<double>(at(x, first + i, t)), 2);
        const double scale = 1 / std::sqrt(sum / static_cast<double>(size) + c_.norm_eps);
        for (int64_t i = 0; i < size; ++i)
          at(x, first + i, t) = static_cast<float>(at(x, first + i, t) * scale) * weights[static_cast<size_t>(i)];
      }
    return x;
  }

  // Queries or keys, turned by their positions: of a head, each half with the other.
  Features turned(Role role, Role norm, const Features& x) {
    Features out = linear(role, x);
    if (c_.family->qk_norm) out = normed(norm, std::move(out));
    const int64_t half = c_.head_dim / 2, heads = static_cast<int64_t>(out.size()) / (c_.head_dim * tokens_);
    for (int64_t i = 0; i < heads * half; ++i)
      for (int64_t t = 0; t < tokens_; ++t) {
        const double angle = static_cast<double>(t) * frequencies_[static_cast<size_t>(i % half)];
        const auto cosine = static_cast<float>(std::cos(angle) * c_.rope.attention_factor);
        const auto sine = static_cast<float>(std::sin(angle) * c_.rope.attention_factor);
        float &low = at(out, i / half * c_.head_dim + i % half, t), &high = *(&low + half * tokens_);
        const float before = low;
        low = low * cosine - high * sine;
        high = high * cosine + before * sine;
      }
    return out;
  }

  Features attention(const Features& x) {
    Features queries = turned(Role::kQuery, Role::kQueryNorm, x), keys = turned(Role::kKey, Role::kKeyNorm, x);
    Features values = linear(Role::kValue, x), mixed = zeros(c_.query_size());
    for (int64_t head = 0; head < c_.heads; ++head)
      for (int64_t t = 0; t < tokens_; ++t) {
        const int64_t query = head * c_.head_dim, key = head / (c_.heads / c_.kv_heads) * c_.head_dim;
        const std::vector<double> weights = seen(queries, query, keys, key, t);
        for (int64_t i = 0; i < c_.head_dim; ++i)
          for (int64_t s = 0; s <= t; ++s)
            at(mixed, query + i, t) += static_cast<float>(weights[static_cast<size_t>(s)]) * at(values, key + i, s);
      }
    return linear(Role::kAttentionOutput, mixed);
  }

  // What the token `t` takes of each up to itself.
  std::vector<double> seen(Features& queries, int64_t query, Features& keys, int64_t key, int64_t t) {
    const int64_t window = c_.windows[static_cast<size_t>(layer_)];
    std::vector<double> weights(static_cast<size_t>(t + 1));
    double sum = 0, most = -INFINITY;
    for (int64_t s = 0; s <= t; ++s) {
      double& score = weights[static_cast<size_t>(s)];
      for (int64_t i = 0; i < c_.head_dim; ++i) score += at(queries, query + i, t) * at(keys, key + i, s);
      score = window > 0 && t - s >= window ? -INFINITY : score / std::sqrt(static_cast<double>(c_.head_dim));
      most = std::max(most, score);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - most);
    for (double& weight : weights) weight /= sum;
    return weights;
  }

  Features feed_forward(const Features& x) {
    Features gate = linear(Role::kGate, x);
    const Features up = linear(Role::kUp, x);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return linear(Role::kDown, gate);
  }

  std::vector<float> by_token(const Features& x) const {
    std::vector<float> out(x.size());
    const size_t tokens = ids_.size(), features = x.size() / tokens;
    for (size_t i = 0; i < x.size(); ++i) out[i % tokens * features + i / tokens] = x[i];
    return out;
  }

  const ModelSource& source_;
  const ModelConfig& c_;
  const Context& context_;
  const std::span<const int32_t> ids_;
  const int64_t tokens_;
  const std::vector<float> frequencies_;
  int64_t layer_ = -1;
};

}  // namespace

std::vector<float> plain_logits(const ModelSource& source, std::span<const int32_t> ids, const Context& context) {
  return PlainDecoder(source, ids, context).logits();
}

}  // namespace retort
