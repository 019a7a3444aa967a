#include "core/arch/family.h"

#include <algorithm>
#include <charconv>

#include "core/base/error.h"

namespace retort {
namespace {

// The number at the "{}" of `pattern` in `name`; -1 where the pattern has none; nullopt where it does not match.
std::optional<int64_t> match(std::string_view pattern, std::string_view name) {
  const size_t hole = pattern.find("{}");
  if (hole == std::string_view::npos) return pattern == name ? std::optional<int64_t>(-1) : std::nullopt;
  const std::string_view tail = pattern.substr(hole + 2);
  if (!name.starts_with(pattern.substr(0, hole)) || !name.ends_with(tail)) return std::nullopt;
  if (name.size() <= hole + tail.size()) return std::nullopt;
  const std::string_view digits = name.substr(hole, name.size() - hole - tail.size());
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  const bool whole = error == std::errc() && end == digits.data() + digits.size() && layer >= 0;
  return whole ? std::optional(layer) : std::nullopt;
}

void append_expected(const ModelConfig& config, const TensorRule& rule, int64_t layer,
                     std::vector<ExpectedTensor>& out) {
  if (!rule.present(config)) return;
  ExpectedTensor tensor{&rule, layer, hf_name(rule, layer), {size_of(rule.rows, config)}};
  if (rule.cols != Dim::kNone) tensor.shape.push_back(size_of(rule.cols, config));
  out.push_back(std::move(tensor));
}

}  // namespace

const Family* find_family(std::string_view model_type) {
  for (const Family& family : families())
    if (family.model_type == model_type) return &family;
  return nullptr;
}

const Family* find_family_by_gguf(std::string_view gguf_architecture) {
  for (const Family& family : families())
    if (family.gguf_architecture == gguf_architecture) return &family;
  return nullptr;
}

bool is_per_layer(Role role) { return role != Role::kEmbedding && role != Role::kFinalNorm && role != Role::kHead; }

int64_t size_of(Dim dim, const ModelConfig& config) {
  switch (dim) {
    case Dim::kNone: return 1;
    case Dim::kVocab: return config.vocab_size;
    case Dim::kHidden: return config.hidden_size;
    case Dim::kFfn: return config.ffn_size;
    case Dim::kQueries: return config.query_size();
    case Dim::kKeyValues: return config.kv_size();
    case Dim::kHeadDim: return config.head_dim;
  }
  return 0;
}

std::string filled_name(std::string_view pattern, int64_t layer) {
  const size_t hole = pattern.find("{}");
  if (hole == std::string_view::npos) return std::string(pattern);
  return std::string(pattern.substr(0, hole)) + std::to_string(layer) + std::string(pattern.substr(hole + 2));
}

std::string hf_name(const TensorRule& rule, int64_t layer) { return filled_name(rule.hf_name, layer); }
std::string gguf_name(const TensorRule& rule, int64_t layer) { return filled_name(rule.gguf_name, layer); }

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  const auto rules = config.family->tensors;
  const auto first = std::find_if(rules.begin(), rules.end(), [](const auto& r) { return is_per_layer(r.role); });
  const auto last = std::find_if(first, rules.end(), [](const auto& r) { return !is_per_layer(r.role); });
  std::vector<ExpectedTensor> tensors;
  for (auto rule = rules.begin(); rule != first; ++rule) append_expected(config, *rule, -1, tensors);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (auto rule = first; rule != last; ++rule) append_expected(config, *rule, layer, tensors);
  for (auto rule = last; rule != rules.end(); ++rule) append_expected(config, *rule, -1, tensors);
  return tensors;
}

std::optional<RuleMatch> match_tensor(const ModelConfig& config, std::string_view name) {
  for (const TensorRule& rule : config.family->tensors) {
    const auto layer = match(rule.hf_name, name);
    if (layer && *layer < config.layers && rule.present(config)) return RuleMatch{&rule, *layer};
  }
  return std::nullopt;
}

std::string tensor_name(const ModelConfig& config, Role role, int64_t layer, Part part) {
  for (const TensorRule& rule : config.family->tensors)
    if (rule.role == role && rule.part == part) return hf_name(rule, layer);
  fail("family", config.family->model_type, "the table has no tensor of the role asked for");
}

}  // namespace retort
