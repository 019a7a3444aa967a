// The decoder on the CPU: embedding, layers of attention and gated FFN, final norm, head.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/text.h"
#include "runtime/attention.h"
#include "runtime/engine.h"
#include "runtime/kernels/registry.h"
#include "runtime/kv_cache.h"
#include "runtime/linear.h"
#include "runtime/rotary.h"

namespace retort {
namespace {

constexpr int64_t kChunk = 64;  // tokens that pass through the layers together: their activations fit a cache
constexpr int64_t kMostTokens = 1 << 24;

struct Layer {
  std::vector<float> attention_norm, query_norm, key_norm, ffn_norm;
  Projection query_key_value, attention_output, gate_up, down;
};

class CpuSession : public Session {
 public:
  CpuSession(const ModelConfig& config, int64_t max_tokens, const ThreadPool& threads)
      : cache(config, max_tokens),
        scores(static_cast<size_t>(attention_scratch(config, cache, threads)) * sizeof(float)) {}

  int64_t position() const override { return position_; }
  void reset(int64_t position) override {
    if (position < 0 || position > position_)
      fail("runtime", "session", "it cannot be reset to a position that it has not reached");
    position_ = position;
  }
  void advance(int64_t tokens) { position_ += tokens; }

  KvCache cache;
  AlignedBuffer scores;

 private:
  int64_t position_ = 0;
};

class CpuEngine : public Engine {
 public:
  CpuEngine(const ModelSource& source, const EngineOptions& options, Context& context);

  const ModelConfig& config() const override { return config_; }
  std::unique_ptr<Session> new_session(int64_t max_tokens) const override;
  void forward(Session& session, std::span<const int32_t> tokens, int64_t rows, std::span<float> logits) override;
  std::string_view kernel() const override { return kernel_.name; }
  uint64_t weight_bytes() const override { return weight_bytes_; }

 private:
  void check_memory(const ModelSource& source) const;
  Linear load_linear(const ModelSource& source, Role role, int64_t layer);
  std::vector<float> load_vector(const ModelSource& source, Role role, int64_t layer, Part part = Part::kWeight);
  Layer load_layer(const ModelSource& source, int64_t layer);
  void allocate_scratch();
  float* scratch(int64_t cols);

  void check_tokens(const CpuSession& session, std::span<const int32_t> tokens, int64_t rows,
                    std::span<float> logits) const;
  void run_chunk(CpuSession& session, std::span<const int32_t> tokens, int64_t end);  // end: of all chunks
  void embed(std::span<const int32_t> tokens);
  void run_attention(CpuSession& session, const Layer& layer, int64_t index, int64_t tokens);
  void rotate_and_store(CpuSession& session, const Layer& layer, int64_t index, int64_t token);
  void run_ffn(const Layer& layer, int64_t tokens);
  void normalize(const std::vector<float>& weight, int64_t first, int64_t tokens);
  void project(const Projection& projection, const float* in, int64_t tokens, std::initializer_list<float*> outputs);
  void add_to_hidden(int64_t tokens);
  void head(int64_t first, int64_t rows, float* logits);

  Context& context_;
  const Kernel& kernel_;
  ModelConfig config_;
  bool float_math_;
  uint64_t weight_bytes_ = 0;

  Projection head_;  // its matrix is the embedding too when they are tied
  PackedMatrix embedding_;
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;

  Rotary rotary_;
  InputBuffer inputs_;
  std::vector<AlignedBuffer> buffers_;
  // [kChunk][...]: the residual stream, its normalized copy, what an attention or FFN adds to it, and so on
  float *hidden_ = nullptr, *normalized_ = nullptr, *added_ = nullptr;
  float *query_ = nullptr, *key_ = nullptr, *value_ = nullptr, *attended_ = nullptr;
  float *gate_ = nullptr, *up_ = nullptr;
};

CpuEngine::CpuEngine(const ModelSource& source, const EngineOptions& options, Context& context)
    : context_(context),
      kernel_(select_kernel(options.kernel)),
      config_(source.config()),
      float_math_(options.float_math),
      rotary_(config_, kChunk) {
  check_memory(source);
  context.progress.begin("load weights", config_.layers, "layers");
  std::vector<Linear> head;
  head.push_back(load_linear(source, config_.tied_embeddings ? Role::kEmbedding : Role::kHead, -1));
  head_ = Projection(std::move(head));
  if (!config_.tied_embeddings) embedding_ = std::move(load_linear(source, Role::kEmbedding, -1).weights);
  final_norm_ = load_vector(source, Role::kFinalNorm, -1);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    context.check_interrupted();
    layers_.push_back(load_layer(source, layer));
    context.progress.update(layer + 1);
  }
  context.progress.end();
  allocate_scratch();
}

void CpuEngine::check_memory(const ModelSource& source) const {
  uint64_t needed = 0;
  for (const ModelTensor& tensor : source.tensors()) needed += PackedMatrix::estimate_bytes(tensor, float_math_);
  if (context_.memory_limit == 0 || needed <= context_.memory_limit) return;
  fail("runtime", source.path().string(),
       "its weights take " + format_bytes(needed) + ", above the limit of " + format_bytes(context_.memory_limit),
       "Raise --memory or quantize the model");
}

std::vector<float> CpuEngine::load_vector(const ModelSource& source, Role role, int64_t layer, Part part) {
  const ModelTensor* tensor = source.find(tensor_name(config_, role, layer, part));
  if (tensor == nullptr) return {};  // the family table says which must exist; the source has checked
  weight_bytes_ += static_cast<uint64_t>(tensor->rows()) * sizeof(float);
  return source.read_f32(*tensor);
}

Linear CpuEngine::load_linear(const ModelSource& source, Role role, int64_t layer) {
  const ModelTensor& tensor = source.at(tensor_name(config_, role, layer));
  Linear linear{.weights = PackedMatrix(source, tensor, float_math_, context_.threads), .bias = {}};
  weight_bytes_ += linear.weights.bytes();
  if (layer >= 0) linear.bias = load_vector(source, role, layer, Part::kBias);
  return linear;
}

Layer CpuEngine::load_layer(const ModelSource& source, int64_t layer) {
  const auto projection = [&](std::initializer_list<Role> roles) {
    std::vector<Linear> linears;
    for (const Role role : roles) linears.push_back(load_linear(source, role, layer));
    return Projection(std::move(linears));
  };
  const bool qk_norm = config_.family->qk_norm;
  const auto none = std::vector<float>();
  return {.attention_norm = load_vector(source, Role::kAttentionNorm, layer),
          .query_norm = qk_norm ? load_vector(source, Role::kQueryNorm, layer) : none,
          .key_norm = qk_norm ? load_vector(source, Role::kKeyNorm, layer) : none,
          .ffn_norm = load_vector(source, Role::kFfnNorm, layer),
          .query_key_value = projection({Role::kQuery, Role::kKey, Role::kValue}),
          .attention_output = projection({Role::kAttentionOutput}),
          .gate_up = projection({Role::kGate, Role::kUp}),
          .down = projection({Role::kDown})};
}

float* CpuEngine::scratch(int64_t cols) {
  buffers_.emplace_back(static_cast<size_t>(kChunk * cols) * sizeof(float));
  return buffers_.back().as<float>();
}

void CpuEngine::allocate_scratch() {
  hidden_ = scratch(config_.hidden_size);
  normalized_ = scratch(config_.hidden_size);
  added_ = scratch(config_.hidden_size);
  query_ = scratch(config_.query_size());
  key_ = scratch(config_.kv_size());
  value_ = scratch(config_.kv_size());
  attended_ = scratch(config_.query_size());
  gate_ = scratch(config_.ffn_size);
  up_ = scratch(config_.ffn_size);
  int64_t widest = 0;
  const auto measure = [&](const Projection& projection) {
    for (const Linear& linear : projection.linears())
      if (linear.weights.is_integer()) widest = std::max(widest, linear.weights.packed_cols());
  };
  measure(head_);
  for (const Layer& layer : layers_)
    for (const Projection* p : {&layer.query_key_value, &layer.attention_output, &layer.gate_up, &layer.down})
      measure(*p);
  inputs_ = InputBuffer(kChunk, widest);
}

std::unique_ptr<Session> CpuEngine::new_session(int64_t max_tokens) const {
  if (max_tokens < 1 || max_tokens > kMostTokens)
    fail("runtime", "session of " + std::to_string(max_tokens) + " tokens", "it must hold 1 to 2^24 tokens");
  const uint64_t needed = weight_bytes_ + KvCache::estimate_bytes(config_, max_tokens);
  if (context_.memory_limit != 0 && needed > context_.memory_limit)
    fail("runtime", "session of " + std::to_string(max_tokens) + " tokens",
         "with its keys and values the model takes " + format_bytes(needed) + ", above the limit of " +
             format_bytes(context_.memory_limit),
         "Raise --memory or ask for fewer tokens");
  return std::make_unique<CpuSession>(config_, max_tokens, context_.threads);
}

void CpuEngine::check_tokens(const CpuSession& session, std::span<const int32_t> tokens, int64_t rows,
                             std::span<float> logits) const {
  const auto count = static_cast<int64_t>(tokens.size());
  if (session.position() + count > session.cache.max_tokens())
    fail("runtime", "sequence",
         "it would reach " + std::to_string(session.position() + count) + " tokens, and its cache holds " +
             std::to_string(session.cache.max_tokens()),
         "Make the session larger or the text shorter");
  if (rows < 0 || rows > count || logits.size() != static_cast<size_t>(rows * config_.vocab_size))
    fail("runtime", "logits", "the buffer does not fit the rows asked for");
  for (const int32_t token : tokens)
    if (token < 0 || token >= config_.vocab_size)
      fail("runtime", "token " + std::to_string(token),
           "it is outside the model's vocabulary of " + std::to_string(config_.vocab_size));
}

void CpuEngine::forward(Session& session, std::span<const int32_t> tokens, int64_t rows, std::span<float> logits) {
  auto& own = dynamic_cast<CpuSession&>(session);
  check_tokens(own, tokens, rows, logits);
  const auto count = static_cast<int64_t>(tokens.size()), end = own.position() + count;
  for (int64_t first = 0; first < count; first += kChunk) {
    context_.check_interrupted();
    const int64_t last = std::min(count, first + kChunk);
    run_chunk(own, tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)), end);
    const int64_t wanted = std::max(first, count - rows);  // first token of this chunk whose logits are asked for
    if (wanted < last)
      head(wanted - first, last - wanted, logits.data() + (wanted - (count - rows)) * config_.vocab_size);
  }
}

void CpuEngine::run_chunk(CpuSession& session, std::span<const int32_t> tokens, int64_t end) {
  const auto count = static_cast<int64_t>(tokens.size());
  embed(tokens);
  rotary_.prepare(session.position(), count, end);
  for (size_t i = 0; i < layers_.size(); ++i) {
    run_attention(session, layers_[i], static_cast<int64_t>(i), count);
    run_ffn(layers_[i], count);
  }
  session.advance(count);
}

void CpuEngine::embed(std::span<const int32_t> tokens) {
  const PackedMatrix& table = config_.tied_embeddings ? head_.linears().front().weights : embedding_;
  const auto width = static_cast<size_t>(config_.hidden_size);
  parallel(context_.threads, static_cast<int64_t>(tokens.size()), [&](int64_t i) {
    table.read_row(tokens[static_cast<size_t>(i)], {hidden_ + static_cast<size_t>(i) * width, width});
  });
}

void CpuEngine::normalize(const std::vector<float>& weight, int64_t first, int64_t tokens) {
  const int64_t width = config_.hidden_size;
  parallel(context_.threads, tokens, [&](int64_t i) {
    kernel_.rms_norm(hidden_ + (first + i) * width, weight.data(), width, static_cast<float>(config_.norm_eps),
                     normalized_ + i * width);
  });
}

void CpuEngine::project(const Projection& projection, const float* in, int64_t tokens,
                        std::initializer_list<float*> outputs) {
  projection.apply(in, tokens, {outputs.begin(), outputs.size()}, inputs_, kernel_, context_.threads);
}

void CpuEngine::add_to_hidden(int64_t tokens) {
  const int64_t width = config_.hidden_size;
  parallel(context_.threads, tokens, [&](int64_t token) {
    for (int64_t i = token * width; i < (token + 1) * width; ++i) hidden_[i] += added_[i];
  });
}

void CpuEngine::run_attention(CpuSession& session, const Layer& layer, int64_t index, int64_t tokens) {
  normalize(layer.attention_norm, 0, tokens);
  project(layer.query_key_value, normalized_, tokens, {query_, key_, value_});
  parallel(context_.threads, tokens, [&](int64_t token) { rotate_and_store(session, layer, index, token); });
  attend({.config = config_,
          .cache = session.cache,
          .layer = index,
          .position = session.position(),
          .tokens = tokens,
          .queries = query_,
          .out = attended_,
          .scores = session.scores.as<float>()},
         kernel_, context_.threads);
  project(layer.attention_output, attended_, tokens, {added_});
  add_to_hidden(tokens);
}

void CpuEngine::rotate_and_store(CpuSession& session, const Layer& layer, int64_t index, int64_t token) {
  const int64_t dim = config_.head_dim;
  const auto eps = static_cast<float>(config_.norm_eps);
  for (int64_t head = 0; head < config_.heads; ++head) {
    float* query = query_ + token * config_.query_size() + head * dim;
    if (!layer.query_norm.empty()) kernel_.rms_norm(query, layer.query_norm.data(), dim, eps, query);
    rotary_.rotate(token, query);
  }
  for (int64_t head = 0; head < config_.kv_heads; ++head) {
    float* key = key_ + token * config_.kv_size() + head * dim;
    if (!layer.key_norm.empty()) kernel_.rms_norm(key, layer.key_norm.data(), dim, eps, key);
    rotary_.rotate(token, key);
    session.cache.store(index, head, session.position() + token, key, value_ + token * config_.kv_size() + head * dim);
  }
}

void CpuEngine::run_ffn(const Layer& layer, int64_t tokens) {
  normalize(layer.ffn_norm, 0, tokens);
  project(layer.gate_up, normalized_, tokens, {gate_, up_});
  const int64_t width = config_.ffn_size;
  parallel(context_.threads, tokens,
           [&](int64_t token) { kernel_.silu_multiply(gate_ + token * width, up_ + token * width, width); });
  project(layer.down, gate_, tokens, {added_});
  add_to_hidden(tokens);
}

void CpuEngine::head(int64_t first, int64_t rows, float* logits) {
  normalize(final_norm_, first, rows);
  project(head_, normalized_, rows, {logits});
}

}  // namespace

std::unique_ptr<Engine> load_engine(const ModelSource& source, const EngineOptions& options, Context& context) {
  if (context.device != "cpu")
    fail("runtime", "device " + context.device, "the built-in backend runs on the CPU only", "Use --device cpu");
  return std::make_unique<CpuEngine>(source, options, context);
}

}  // namespace retort
