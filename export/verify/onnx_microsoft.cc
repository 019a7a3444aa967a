// docs/ContribOperators.md of ONNX Runtime.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "export/verify/onnx_operators.h"

namespace retort {
namespace {

// A matrix of codes in blocks along its rows: codes, scales and zero points, low bits first in bytes.
struct Blocks {
  OnnxArray codes, scales, zeros;
  bool has_zeros;
  int64_t bits, block, blocks;  // of a row

  int64_t per_byte() const { return 8 / bits; }
  // A value of the row `row` of an array whose rows have so many bytes.
  int packed(const OnnxArray& bytes, int64_t row, int64_t row_bytes, int64_t index) const {
    const int byte = static_cast<int>(bytes.at(row * row_bytes + index / per_byte()));
    return byte >> (bits * (index % per_byte())) & ((1 << bits) - 1);
  }
  double at(int64_t row, int64_t col) const {
    const int64_t group = col / block;
    const int code = packed(codes, row, blocks * block / per_byte(), col);
    const int zero = has_zeros ? packed(zeros, row, (blocks + per_byte() - 1) / per_byte(), group) : 1 << (bits - 1);
    return (code - zero) * scales.at(row * blocks + group);
  }
};

// Input `first` has the codes of `rows` rows, in blocks; scales and zero points follow `beside`.
Blocks blocks_of(const OnnxCall& call, size_t first, size_t beside, int64_t rows, int64_t blocks) {
  Blocks out{call.in(first),
             call.in(beside),
             {},
             call.has(beside + 1),
             call.attribute("bits", 4),
             call.attribute("block_size", 0),
             blocks};
  call.need(out.bits == 2 || out.bits == 4 || out.bits == 8, "its width is not 2, 4 or 8 bits");
  call.need(out.block >= 16 && out.block <= 256 && out.block % 16 == 0, "its blocks are not of 16 to 256");
  if (out.has_zeros) out.zeros = call.in(beside + 1);
  const auto holds = [&](const OnnxArray& array, int64_t type, int64_t each) {
    return array.type == type && elements_of(array.shape) == elements_of(std::array{rows, each});
  };
  call.need(holds(out.codes, kOnnxU8, blocks * out.block / out.per_byte()), "its codes have another type or shape");
  call.need(holds(out.scales, kOnnxF32, blocks), "its scales have another type or shape");
  call.need(!out.has_zeros || holds(out.zeros, kOnnxU8, (blocks + out.per_byte() - 1) / out.per_byte()),
            "its zero points have another type or shape");
  return out;
}

OnnxResults mat_mul_n_bits(const OnnxCall& call) {
  const OnnxArray& x = call.in(0);
  call.attribute("accuracy_level", 0);  // how activations are rounded while it runs
  const int64_t k = call.attribute("K", 0), n = call.attribute("N", 0), block = call.attribute("block_size", 0);
  call.need(k > 0 && n > 0 && block > 0 && x.axes() > 0 && x.shape.back() == k && x.type == kOnnxF32,
            "its input has another size than its weight");
  call.need(!call.has(4), "its columns have an order");
  const Blocks weight = blocks_of(call, 1, 2, n, (k - 1) / block + 1);
  OnnxArray out = product(call, x, n, [&](int64_t row, int64_t col) { return weight.at(row, col); });
  if (!call.has(5)) return {out};
  call.need(call.in(5).shape == OnnxShape{n} && call.in(5).type == kOnnxF32, "its bias has another type or shape");
  out.at = [at = out.at, bias = call.in(5).at, n](int64_t i) { return at(i) + bias(i % n); };
  return {out};
}

OnnxResults gather_block_quantized(const OnnxCall& call) {
  const OnnxArray &codes = call.in(0), &scales = call.in(2);
  call.need(codes.axes() == 2 && scales.axes() == 2 && codes.shape[0] == scales.shape[0], "it is no matrix of rows");
  call.need(call.attribute("gather_axis", 0) == 0 && call.attribute("quantize_axis", 1) == 1, "its axes are others");
  std::vector<int64_t> rows = call.integers(1);
  for (int64_t& row : rows) row = call.axis(row, codes.shape[0]);
  const Blocks matrix = blocks_of(call, 0, 2, codes.shape[0], scales.shape[1]);
  OnnxShape shape = call.in(1).shape;
  const int64_t cols = matrix.blocks * matrix.block;
  shape.push_back(cols);
  const auto at = [=](int64_t i) { return matrix.at(rows[static_cast<size_t>(i / cols)], i % cols); };
  return {{kOnnxF32, shape, at}};
}

// Of heads side by side; the halves of a head are turned together.
OnnxResults rotary_embedding(const OnnxCall& call) {
  const OnnxArray &x = call.in(0), &cosines = call.in(2), &sines = call.in(3);
  call.need(x.axes() == 3 && cosines.axes() == 2 && cosines.shape == sines.shape, "its inputs have unexpected shapes");
  for (const char* name : {"interleaved", "num_heads", "rotary_embedding_dim", "is_packed_batching"})
    call.need(call.attribute(name, 0) == 0, "it turns in another way than heads by halves");
  std::vector<int64_t> rows = call.integers(1);
  const int64_t size = x.shape[2], half = cosines.shape[1];
  call.need(half > 0 && size % (2 * half) == 0, "its table is for heads of another size");
  call.need(call.in(1).shape == OnnxShape{x.shape[0], x.shape[1]}, "its positions are not one for each token");
  for (int64_t& row : rows) row = call.axis(row, cosines.shape[0]);
  OnnxArray out = x;
  out.at = [=, at = x.at, cos = cosines.at, sin = sines.at](int64_t i) {
    const int64_t in_head = i % size % (2 * half);
    const int64_t turn = rows[static_cast<size_t>(i / size)] * half + in_head % half;
    if (in_head < half) return at(i) * cos(turn) - at(i + half) * sin(turn);
    return at(i) * cos(turn) + at(i - half) * sin(turn);
  };
  return {out};
}

// The sizes of one attention, and how far a query sees.
struct Attention {
  int64_t batch, tokens, past, heads, kv_heads, dim, window;
  double scale;

  int64_t total() const { return past + tokens; }
  OnnxShape cache() const { return {batch, kv_heads, total(), dim}; }
  bool sees(int64_t query, int64_t key) const {
    return key <= past + query && (window < 0 || key > past + query - window);
  }
};

Attention attention_of(const OnnxCall& call) {
  const OnnxArray &queries = call.in(0), &past = call.in(3);
  call.need(queries.axes() == 3 && past.axes() == 4, "its inputs have unexpected shapes");
  Attention a{queries.shape[0],
              queries.shape[1],
              past.shape[2],
              call.attribute("num_heads", 0),
              past.shape[1],
              past.shape[3],
              call.attribute("local_window_size", -1),
              0};
  const double scale = call.number("scale", 0);
  a.scale = scale == 0 ? 1 / std::sqrt(static_cast<double>(a.dim)) : scale;
  call.need(a.heads > 0 && a.dim > 0 && call.attribute("kv_num_heads", 0) == a.kv_heads && a.kv_heads > 0 &&
                a.heads % a.kv_heads == 0 && call.attribute("do_rotary", 0) == 0 &&
                call.attribute("smooth_softmax", 0) == 0,
            "its attributes are not those of its cache");
  const OnnxShape fresh{a.batch, a.tokens, a.kv_heads * a.dim};
  call.need(queries.shape[2] == elements_of(std::array{a.heads, a.dim}) && call.in(1).shape == fresh &&
                call.in(2).shape == fresh && call.in(4).shape == past.shape && past.shape[0] == a.batch,
            "its keys and values have other sizes");
  const std::vector<int64_t> last = call.integers(5);
  call.need(static_cast<int64_t>(last.size()) == a.batch && std::ranges::count(last, a.total() - 1) == a.batch &&
                call.integers(6) == std::vector{a.total()},
            "it is told another length");
  return a;
}

// The past and what is new behind it, [batch, heads, total, dim].
OnnxArray with_past(const OnnxCall& call, const Attention& a, const OnnxArray& past, const OnnxArray& fresh) {
  const auto at = [a, old = past.at, now = fresh.at](int64_t i) {
    const int64_t d = i % a.dim, t = i / a.dim % a.total(), head = i / a.dim / a.total();
    if (t < a.past) return old((head * a.past + t) * a.dim + d);
    return now(((head / a.kv_heads * a.tokens + t - a.past) * a.kv_heads + head % a.kv_heads) * a.dim + d);
  };
  return stored(past.type, a.cache(), call.values({past.type, a.cache(), at}));
}

// What one query takes of each key.
std::vector<double> weights_of(const Attention& a, int64_t query, const std::function<double(int64_t key)>& score) {
  std::vector<double> weights(static_cast<size_t>(a.total()), -std::numeric_limits<double>::infinity());
  for (int64_t key = 0; key < a.total(); ++key)
    if (a.sees(query, key)) weights[static_cast<size_t>(key)] = score(key);
  const double most = std::ranges::max(weights);
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - most);
  for (double& weight : weights) weight /= sum;
  return weights;
}

OnnxResults grouped_attention(const OnnxCall& call) {
  const Attention a = attention_of(call);
  const OnnxArray keys = with_past(call, a, call.in(3), call.in(1)),
                  values = with_past(call, a, call.in(4), call.in(2));
  const OnnxArray bias = broadcast(call, call.in(10), {a.batch, a.heads, a.tokens, a.total()});
  const std::vector<double> queries = call.values(call.in(0));
  call.spend(std::array{a.batch, a.heads, a.tokens, a.total(), a.dim});
  std::vector<double> mixed(queries.size());
  for (int64_t line = 0; line < a.batch * a.tokens * a.heads; ++line) {
    const int64_t head = line % a.heads, query = line / a.heads % a.tokens, row = line / a.heads / a.tokens;
    const int64_t cache = (row * a.kv_heads + head / (a.heads / a.kv_heads)) * a.total();
    const auto score = [&](int64_t key) {
      double sum = 0;
      for (int64_t d = 0; d < a.dim; ++d)
        sum += queries[static_cast<size_t>(line * a.dim + d)] * keys.at((cache + key) * a.dim + d);
      return sum * a.scale + bias.at(((row * a.heads + head) * a.tokens + query) * a.total() + key);
    };
    const std::vector<double> weights = weights_of(a, query, score);
    for (int64_t key = 0; key < a.total(); ++key)
      for (int64_t d = 0; d < a.dim; ++d)
        mixed[static_cast<size_t>(line * a.dim + d)] +=
            weights[static_cast<size_t>(key)] * values.at((cache + key) * a.dim + d);
  }
  return {stored(kOnnxF32, call.in(0).shape, std::move(mixed)), keys, values};
}

constexpr OnnxOperator kOperators[] = {
    {"GatherBlockQuantized", gather_block_quantized, true},
    {"GroupQueryAttention", grouped_attention, true},
    {"MatMulNBits", mat_mul_n_bits, true},
    {"RotaryEmbedding", rotary_embedding, true},
};

}  // namespace

std::span<const OnnxOperator> microsoft_operators() { return kOperators; }

}  // namespace retort
