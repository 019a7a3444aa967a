// A model family is a row of data. Loader, quantizer, pruner, exporter and runtime read the same table.
// To add a family: one row in families.cc, and a golden model in tests/oracles/make_families.py. One that only stores
// its matrices otherwise than another is a row in joined_families.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/arch/model_config.h"

namespace retort {

enum class Role : uint8_t {
  kEmbedding, kFinalNorm, kHead,                                  // one each
  kAttentionNorm, kQuery, kKey, kValue, kAttentionOutput,         // one per layer
  kQueryNorm, kKeyNorm, kFfnNorm, kGate, kUp, kDown,
};
enum class Part : uint8_t { kWeight, kBias };
// Sizes as functions of the configuration. A vector has cols == kNone.
enum class Dim : uint8_t { kNone, kVocab, kHidden, kFfn, kQueries, kKeyValues, kHeadDim };
// Which layers' activations feed a matrix: matrices of one layer with the same input share calibration statistics.
enum class Input : uint8_t { kNone, kAttentionNorm, kAttention, kFfnNorm, kFfn };

struct TensorRule {
  Role role;
  Part part;
  std::string_view hf_name;    // "{}" stands for the layer index
  std::string_view gguf_name;
  Dim rows, cols;              // rows = out features
  bool (*present)(const ModelConfig&);
  Input input = Input::kNone;  // not kNone: a linear weight that the int schemes quantize
};

struct Family {
  std::string_view model_type;         // config.json "model_type"
  std::string_view architecture;       // config.json "architectures"[0]
  std::string_view gguf_architecture;  // general.architecture
  bool gguf_interleaved_rope;          // GGUF holds q/k rows in the interleaved order: they are permuted
  bool qk_norm;
  bool always_qkv_bias;                // q/k/v biases without a config key (Qwen2)
  bool attention_bias, mlp_bias;       // the config keys of these names mean something
  enum class Window : uint8_t { kNever, kEveryLayer, kUpperLayers } window;
  std::span<const TensorRule> tensors;
};

std::span<const Family> families();
const Family* find_family(std::string_view model_type);                    // nullptr: not known
const Family* find_family_by_gguf(std::string_view gguf_architecture);     // the first row that writes it

bool is_per_layer(Role role);
int64_t size_of(Dim dim, const ModelConfig& config);
std::string filled_name(std::string_view pattern, int64_t layer);  // with the layer in the place of "{}"
std::string hf_name(const TensorRule& rule, int64_t layer);
std::string gguf_name(const TensorRule& rule, int64_t layer);

// One tensor that a model of this configuration must have.
struct ExpectedTensor {
  const TensorRule* rule;
  int64_t layer;  // -1: not per layer
  std::string name;
  std::vector<int64_t> shape;  // [rows, cols] or [rows]
};
// All of them, in the order in which a forward pass reads them: embedding, layers, final norm, head.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);
// The rule that `name` (a Hugging Face tensor name) is an instance of, and its layer.
struct RuleMatch {
  const TensorRule* rule;
  int64_t layer;
};
std::optional<RuleMatch> match_tensor(const ModelConfig& config, std::string_view name);
std::string tensor_name(const ModelConfig& config, Role role, int64_t layer = -1, Part part = Part::kWeight);

}  // namespace retort
