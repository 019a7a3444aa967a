#include "runtime/linear.h"

#include <algorithm>

namespace retort {
namespace {

constexpr int64_t kShardsPerThread = 4;  // a thread that was held up does not hold up the others for long

bool same_inputs(const PackedMatrix& a, const PackedMatrix& b) {
  return a.is_integer() == b.is_integer() && std::ranges::equal(a.columns(), b.columns());
}

// A run of tiles of the concatenation of `linears`.
struct TileRun {
  std::span<const Linear> linears;
  std::span<float* const> outputs;
  Inputs inputs;
  const Kernel& kernel;

  int64_t tile_count() const {
    int64_t count = 0;
    for (const Linear& linear : linears) count += linear.weights.tile_count();
    return count;
  }

  void compute(int64_t first, int64_t last) const {
    for (size_t i = 0; i < linears.size(); ++i) {
      const int64_t count = linears[i].weights.tile_count();
      if (first < count && last > 0) compute_tiles(i, std::max<int64_t>(first, 0), std::min(last, count));
      first -= count;
      last -= count;
    }
  }

  void compute_tiles(size_t i, int64_t first, int64_t last) const {
    const PackedMatrix& weights = linears[i].weights;
    kernel.matmul[static_cast<int>(weights.type())]({.weights = weights.tiles(),
                                                     .inputs = inputs,
                                                     .first_tile = first,
                                                     .last_tile = last,
                                                     .out = outputs[i],
                                                     .out_stride = weights.rows()});
    weights.add_outliers(inputs, first, last, outputs[i]);
    const std::vector<float>& bias = linears[i].bias;
    if (bias.empty()) return;
    const int64_t last_row = std::min(weights.rows(), last * kTileRows);
    for (int64_t token = 0; token < inputs.tokens; ++token)
      for (int64_t row = first * kTileRows; row < last_row; ++row)
        outputs[i][token * weights.rows() + row] += bias[static_cast<size_t>(row)];
  }
};

}  // namespace

InputBuffer::InputBuffer(int64_t max_tokens, int64_t max_cols)
    : max_cols_(max_cols),
      values_(static_cast<size_t>(max_tokens * max_cols) * sizeof(float)),
      codes_(static_cast<size_t>(max_tokens * max_cols)),
      scales_(static_cast<size_t>(max_tokens * max_cols / kBlock) * sizeof(float)),
      sums_(static_cast<size_t>(max_tokens * max_cols / kBlock * 2) * sizeof(int32_t)) {}

Inputs InputBuffer::prepare(const PackedMatrix& weights, const float* values, int64_t tokens, const Kernel& kernel,
                            ThreadPool& threads) {
  Inputs inputs{.tokens = tokens,
                .values = values,
                .value_stride = weights.cols(),
                .codes = codes_.as<int8_t>(),
                .scales = scales_.as<float>(),
                .negative_sums = sums_.as<int32_t>()};
  if (weights.is_integer())
    parallel(threads, tokens, [&](int64_t token) { quantize_token(weights, values, token, kernel); });
  return inputs;
}

void InputBuffer::quantize_token(const PackedMatrix& weights, const float* values, int64_t token,
                                 const Kernel& kernel) {
  const int64_t cols = weights.cols(), packed = weights.packed_cols(), blocks = packed / kBlock;
  const float* x = values + token * cols;
  if (const auto columns = weights.columns(); packed != cols || !columns.empty()) {
    float* moved = values_.as<float>() + token * max_cols_;
    for (int64_t p = 0; p < packed; ++p) {
      const int64_t c = columns.empty() ? p : columns[static_cast<size_t>(p)];
      moved[p] = c >= 0 && c < cols ? x[c] : 0.0f;
    }
    x = moved;
  }
  kernel.quantize({.values = x,
                   .blocks = blocks,
                   .codes = codes_.as<int8_t>() + token * packed,
                   .scales = scales_.as<float>() + token * blocks,
                   .negative_sums = sums_.as<int32_t>() + token * blocks * 2});
}

Projection::Projection(std::vector<Linear> linears) : linears_(std::move(linears)) {
  for (size_t i = 1; i < linears_.size(); ++i)
    linears_[i].new_inputs = !same_inputs(linears_[i - 1].weights, linears_[i].weights);
}

void Projection::apply(const float* values, int64_t tokens, std::span<float* const> outputs, InputBuffer& buffer,
                       const Kernel& kernel, ThreadPool& threads) const {
  for (size_t begin = 0; begin < linears_.size();) {
    size_t end = begin + 1;
    while (end < linears_.size() && !linears_[end].new_inputs) ++end;
    const TileRun run{.linears = std::span(linears_).subspan(begin, end - begin),
                      .outputs = outputs.subspan(begin, end - begin),
                      .inputs = buffer.prepare(linears_[begin].weights, values, tokens, kernel, threads),
                      .kernel = kernel};
    const int64_t tiles = run.tile_count();
    const int64_t shards = std::min(tiles, threads.size() * kShardsPerThread);
    parallel(threads, shards, [&](int64_t i) { run.compute(i * tiles / shards, (i + 1) * tiles / shards); });
    begin = end;
  }
}

}  // namespace retort
