#include "quantize/mixes.h"

#include <array>
#include <span>

namespace retort {

namespace {

// Layers in which a rule holds.
enum class Where : uint8_t { kAll, kSpread, kFirstEighth, kFirstSixteenth, kFirstTwo, kFirstFour, kSharedKeys };

struct MixRule {
  Role role;
  Where where;
  std::string_view type;
};

}  // namespace

struct Mix {
  std::string_view name, base;
  std::span<const MixRule> rules;  // the first that holds
};

namespace {

constexpr MixRule kQ2K[] = {{Role::kValue, Where::kSharedKeys, "q4_k"},
                            {Role::kValue, Where::kAll, "q3_k"},
                            {Role::kDown, Where::kAll, "q3_k"},
                            {Role::kAttentionOutput, Where::kAll, "q3_k"}};
constexpr MixRule kQ2KS[] = {{Role::kValue, Where::kSharedKeys, "q4_k"}, {Role::kDown, Where::kFirstEighth, "q4_k"}};
constexpr MixRule kQ3KM[] = {{Role::kValue, Where::kFirstTwo, "q5_k"},
                             {Role::kValue, Where::kAll, "q4_k"},
                             {Role::kDown, Where::kFirstSixteenth, "q5_k"},
                             {Role::kDown, Where::kAll, "q4_k"},
                             {Role::kAttentionOutput, Where::kAll, "q4_k"}};
constexpr MixRule kQ3KL[] = {{Role::kValue, Where::kAll, "q5_k"},
                             {Role::kDown, Where::kAll, "q5_k"},
                             {Role::kAttentionOutput, Where::kAll, "q5_k"}};
constexpr MixRule kQ4KS[] = {{Role::kValue, Where::kFirstFour, "q5_k"}, {Role::kDown, Where::kFirstEighth, "q5_k"}};
constexpr MixRule kMedium[] = {{Role::kValue, Where::kSpread, "q6_k"}, {Role::kDown, Where::kSpread, "q6_k"}};
constexpr MixRule kIq4[] = {{Role::kValue, Where::kSharedKeys, "q5_k"}, {Role::kDown, Where::kFirstEighth, "q5_k"}};

constexpr std::array kMixes{
    Mix{"q2_k", "q2_k", kQ2K},      Mix{"q2_k_s", "q2_k", kQ2KS},  Mix{"q3_k_s", "q3_k", {}},
    Mix{"q3_k_m", "q3_k", kQ3KM},   Mix{"q3_k_l", "q3_k", kQ3KL},  Mix{"q4_k_s", "q4_k", kQ4KS},
    Mix{"q4_k_m", "q4_k", kMedium}, Mix{"q5_k_s", "q5_k", {}},     Mix{"q5_k_m", "q5_k", kMedium},
    Mix{"q6_k", "q6_k", {}},        Mix{"iq4_nl", "iq4_nl", kIq4}, Mix{"iq4_xs", "iq4_xs", kIq4},
};

bool holds(Where where, int64_t layer, const ModelConfig& config) {
  const int64_t layers = config.layers;
  switch (where) {
    case Where::kAll: return true;
    case Where::kSpread: return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
    case Where::kFirstEighth: return layer < layers / 8;
    case Where::kFirstSixteenth: return layer < layers / 16;
    case Where::kFirstTwo: return layer < 2;
    case Where::kFirstFour: return layer < 4;
    case Where::kSharedKeys: return config.heads / config.kv_heads >= 4;
  }
  return false;
}

}  // namespace

const Mix* find_mix(std::string_view name) {
  for (const Mix& mix : kMixes)
    if (mix.name == name) return &mix;
  return nullptr;
}

std::vector<std::string> mix_names() {
  std::vector<std::string> names;
  for (const Mix& mix : kMixes) names.emplace_back(mix.name);
  return names;
}

std::string_view base_of(const Mix& mix) { return mix.base; }

Scheme scheme_in_mix(const Mix& mix, const ModelConfig& config, const TensorRule& rule, int64_t layer) {
  for (const MixRule& choice : mix.rules)
    if (choice.role == rule.role && holds(choice.where, layer, config)) return parse_scheme(choice.type);
  return parse_scheme(mix.base);
}

Scheme head_scheme(const Scheme& base, const ModelConfig& config) {
  const Scheme six = parse_scheme("q6_k");
  return base.block == BlockType::kQ8_0 || !base.fits(config.hidden_size) || !six.fits(config.hidden_size)
             ? parse_scheme("q8_0")
             : six;
}

}  // namespace retort
