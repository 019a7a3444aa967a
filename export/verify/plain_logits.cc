#include "export/verify/plain_logits.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace retort {
namespace {

constexpr int64_t kRunElements = int64_t{1} << 16;

class PlainDecoder {
 public:
  PlainDecoder(const ModelConfig& config, const TensorRows& rows, std::span<const int32_t> ids, const Context& context)
      : c_(config),
        rows_(rows),
        context_(context),
        ids_(ids),
        tokens_(static_cast<int64_t>(ids.size())),
        frequencies_(rope_frequencies(c_, tokens_)) {
    for (ExpectedTensor& tensor : expected_tensors(c_)) expected_.emplace(tensor.name, std::move(tensor));
  }

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
  const ExpectedTensor& weight(Role role) const { return expected_.at(tensor_name(c_, role, layer_)); }

  std::vector<float> vector_of(const ExpectedTensor& tensor) const {
    std::vector<float> values(static_cast<size_t>(tensor.shape[0]));
    rows_(tensor)(0, tensor.shape[0], values);
    return values;
  }

  Features embedding() {
    const ExpectedTensor& tensor = weight(Role::kEmbedding);
    const RowReader read = rows_(tensor);
    Features out = zeros(tensor.shape[1]);
    std::vector<float> row(static_cast<size_t>(tensor.shape[1]));
    for (int64_t t = 0; t < tokens_; ++t) {
      read(ids_[static_cast<size_t>(t)], 1, row);
      for (int64_t i = 0; i < tensor.shape[1]; ++i) at(out, i, t) = row[static_cast<size_t>(i)];
    }
    return out;
  }

  Features linear(Role role, const Features& x) {
    context_.check_interrupted();
    Features out = product(weight(role), x);
    add_bias(role, out);
    return out;
  }

  Features product(const ExpectedTensor& tensor, const Features& x) {
    const RowReader read = rows_(tensor);
    const int64_t cols = tensor.shape[1];
    Features out = zeros(tensor.shape[0]);
    context_.threads.run_ranges(tensor.shape[0], std::max<int64_t>(1, kRunElements / cols),
                                [&](int64_t first, int64_t last) {
                                  std::vector<float> rows(static_cast<size_t>((last - first) * cols));
                                  read(first, last - first, rows);
                                  for (int64_t row = first; row < last; ++row)
                                    multiply(rows.data() + (row - first) * cols, cols, x, &at(out, row, 0));
                                });
    return out;
  }

  void multiply(const float* row, int64_t cols, const Features& x, float* out) const {
    for (int64_t i = 0; i < cols; ++i)
      for (int64_t t = 0; t < tokens_; ++t) out[t] += row[i] * x[static_cast<size_t>(i * tokens_ + t)];
  }

  void add_bias(Role role, Features& out) {
    const std::string name = weight(role).name;
    const auto bias = expected_.find(name.substr(0, name.rfind('.')) + ".bias");
    if (bias == expected_.end()) return;
    const std::vector<float> values = vector_of(bias->second);
    for (size_t i = 0; i < values.size(); ++i)
      for (int64_t t = 0; t < tokens_; ++t) at(out, static_cast<int64_t>(i), t) += values[i];
  }

  void add(Features& x, const Features& more) const {
    for (size_t i = 0; i < x.size(); ++i) x[i] += more[i];
  }

  // Of as many features at a time as the norm has weights: all, or those of a head.
  Features normed(Role role, Features x) {
    const std::vector<float> weights = vector_of(weight(role));
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

  const ModelConfig& c_;
  const TensorRows& rows_;
  const Context& context_;
  const std::span<const int32_t> ids_;
  const int64_t tokens_;
  const std::vector<float> frequencies_;
  std::map<std::string, ExpectedTensor> expected_;  // by name
  int64_t layer_ = -1;
};

}  // namespace

std::vector<float> plain_logits(const ModelConfig& config, const TensorRows& rows, std::span<const int32_t> ids,
                                const Context& context) {
  return PlainDecoder(config, rows, ids, context).logits();
}

std::vector<float> plain_logits(const ModelSource& source, std::span<const int32_t> ids, const Context& context) {
  const TensorRows rows = [&](const ExpectedTensor& expected) -> RowReader {
    return [&source, &tensor = source.at(expected.name)](int64_t first, int64_t count, std::span<float> out) {
      source.read_f32(tensor, first, count, out);
    };
  };
  return plain_logits(source.config(), rows, ids, context);
}

}  // namespace retort
