#include "core/checkpoint/random_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/base/digest.h"
#include "core/base/error.h"

namespace retort {
namespace {

constexpr int64_t kChunk = int64_t{1} << 22, kGrain = int64_t{1} << 16;  // elements in memory, and of one shard
constexpr size_t kQuantiles = 65536;

// The quantiles of the upper half, by Newton's method; each starts at its neighbour, from where the distribution
// function (concave here) is approached from below without overshooting.
std::array<float, kQuantiles> normal_quantiles() {
  std::array<float, kQuantiles> table{};
  double x = 0;
  for (size_t i = kQuantiles / 2; i < kQuantiles; ++i) {
    const double tail = (static_cast<double>(kQuantiles - i) - 0.5) / kQuantiles;  // the probability of more than x
    for (int step = 0; step < 6; ++step) {
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
      x += (std::erfc(x / std::numbers::sqrt2) / 2 - tail) / density;
    }
    table[i] = static_cast<float>(x);
    table[kQuantiles - 1 - i] = -table[i];
  }
  return table;
}

uint64_t splitmix(uint64_t state) {
  uint64_t z = state * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t key_of(uint64_t seed, const std::string& name) {
  return std::stoull(digest_of(std::to_string(seed) + ":" + name).substr(0, 16), nullptr, 16);
}

// Values of one tensor: either drawn or constant.
class Source {
 public:
  Source(const ExpectedTensor& tensor, double range, uint64_t seed)
      : key_(key_of(seed, tensor.name)),
        range_(static_cast<float>(range)),
        drawn_(tensor.shape.size() == 2),
        constant_(tensor.rule->part == Part::kWeight ? 1.0f : 0.0f) {}

  void fill(int64_t first, std::span<float> out) const {
    std::ranges::fill(out, constant_);
    if (drawn_) fill_normal(key_, static_cast<uint64_t>(first), out);
    for (float& value : out) value *= drawn_ ? range_ : 1.0f;
  }

 private:
  uint64_t key_;
  float range_;
  bool drawn_;
  float constant_;
};

Json config_for(const ModelConfig& config, DType type) {
  Json json = config.json;
  if (!json.contains("architectures")) json["architectures"] = {config.family->architecture};
  json.erase("quantization_config");
  const char* name = type == DType::kF32 ? "float32" : type == DType::kF16 ? "float16" : "bfloat16";
  json[json.contains("torch_dtype") && !json.contains("dtype") ? "torch_dtype" : "dtype"] = name;
  return json;
}

}  // namespace

void fill_normal(uint64_t key, uint64_t first, std::span<float> out) {
  static const std::array<float, kQuantiles> kTable = normal_quantiles();
  for (size_t i = 0; i < out.size(); i += 4) {
    uint64_t bits = splitmix(key + (first + i) / 4);
    for (size_t lane = i; lane < std::min(i + 4, out.size()); ++lane, bits >>= 16) out[lane] = kTable[bits & 0xffff];
  }
}

void write_random_model(const ModelConfig& config, DType type, std::span<const SideFile> side_files,
                        const std::filesystem::path& directory, Context& context) {
  const double range = json_value(config.json, "initializer_range", 0.02, "config.json");
  if (!(range >= 0 && range <= 100)) fail("init", "initializer_range", "it is not a number from 0 to 100");
  ModelWriter writer(directory, side_files);
  std::vector<float> values(static_cast<size_t>(kChunk));
  std::vector<std::byte> bytes(values.size() * size_of(type));
  int64_t done = 0;
  context.progress.begin("init", config.parameters(), "parameters");
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const Source source(tensor, range, context.seed);
    const int64_t elements = tensor.shape[0] * (tensor.shape.size() == 2 ? tensor.shape[1] : 1);
    writer.begin_dense(tensor.name, type, tensor.shape);
    for (int64_t start = 0; start < elements; start += kChunk) {
      context.check_interrupted();
      const int64_t count = std::min(kChunk, elements - start);
      context.threads.run_ranges(count, kGrain, [&](int64_t first, int64_t last) {
        const auto part = std::span(values).subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
        source.fill(start + first, part);
        encode_from_f32(
            type, part,
            std::span(bytes).subspan(static_cast<size_t>(first) * size_of(type), part.size() * size_of(type)));
      });
      writer.append(std::span(bytes).first(static_cast<size_t>(count) * size_of(type)));
      context.progress.update(done += count, tensor.name);
    }
  }
  context.progress.end();
  writer.finish(config_for(config, type), Json());
}

}  // namespace retort
