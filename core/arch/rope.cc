#include "core/arch/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>

#include "core/arch/model_config.h"
#include "core/base/error.h"

namespace retort {
namespace {

// One file's settings, wherever it has them.
struct Settings {
  const Json& config;
  const Json& rope;  // rope_parameters or rope_scaling
  int64_t head_dim, context;
  std::string_view label;

  bool has(const char* key) const {
    const auto found = rope.find(key);
    return found != rope.end() && !found->is_null();
  }
  double number(const char* key, double fallback) const {
    return has(key) ? json_required<double>(rope, key, label) : fallback;
  }
  double positive(const char* key, double value) const {
    if (!(value > 0) || !std::isfinite(value))
      fail("config", label, "the rope's " + std::string(key) + " is not positive");
    return value;
  }
};

std::vector<double> read_factors(const Settings& s, const char* key) {
  auto factors = json_required<std::vector<double>>(s.rope, key, s.label);
  if (static_cast<int64_t>(factors.size()) != s.head_dim / 2)
    fail("config", s.label, "the number of rope factors in " + std::string(key) + " is not head_dim / 2");
  if (!std::ranges::all_of(factors, [](double factor) { return std::isfinite(factor) && factor > 0; }))
    fail("config", s.label, "a rope factor in " + std::string(key) + " is not positive");
  return factors;
}

// Some configurations have it beside the settings, which then counts, or nowhere.
int64_t original_context(const Settings& s) {
  constexpr const char* kKey = "original_max_position_embeddings";
  const auto outside = s.config.find(kKey);
  const bool beside = outside != s.config.end() && !outside->is_null();
  const auto value =
      beside ? json_required<int64_t>(s.config, kKey, s.label) : json_value(s.rope, kKey, s.context, s.label);
  if (value < 1 || value > int64_t{1} << 24)
    fail("config", s.label, "the rope's " + std::string(kKey) + " is " + std::to_string(value));
  return value;
}

void read_linear(const Settings& s, RopeConfig& rope) {
  rope.scaling = RopeScaling::kLinear;
  rope.factor = s.positive("factor", json_required<double>(s.rope, "factor", s.label));
}

void read_llama3(const Settings& s, RopeConfig& rope) {
  read_linear(s, rope);
  rope.scaling = RopeScaling::kLlama3;
  rope.low_freq_factor = s.positive("low_freq_factor", json_required<double>(s.rope, "low_freq_factor", s.label));
  rope.high_freq_factor = json_required<double>(s.rope, "high_freq_factor", s.label);
  rope.original_context = json_required<int64_t>(s.rope, "original_max_position_embeddings", s.label);
  if (rope.original_context < 1 || !(rope.high_freq_factor > rope.low_freq_factor))
    fail("config", s.label, "the llama3 rope parameters are out of range");
}

double stretch(const Settings& s, const RopeConfig& rope) {
  const double ratio = static_cast<double>(s.context) / static_cast<double>(rope.original_context);
  return s.positive("factor", s.number("factor", ratio));
}

void read_yarn(const Settings& s, RopeConfig& rope) {
  rope.scaling = RopeScaling::kYarn;
  rope.original_context = original_context(s);
  rope.factor = stretch(s, rope);
  rope.truncate = json_value(s.rope, "truncate", true, s.label);
  const double fast = s.number("beta_fast", 0), slow = s.number("beta_slow", 0);
  rope.beta_fast = fast == 0 ? 32 : s.positive("beta_fast", fast);
  rope.beta_slow = slow == 0 ? 1 : s.positive("beta_slow", slow);
  const double mscale = s.number("mscale", 0), all = s.number("mscale_all_dim", 0);
  const double advised = mscale != 0 && all != 0
                             ? yarn_attention_factor(rope.factor, mscale) / yarn_attention_factor(rope.factor, all)
                             : yarn_attention_factor(rope.factor);
  rope.attention_factor = s.positive("attention_factor", s.number("attention_factor", advised));
  if (!(rope.theta > 1)) fail("config", s.label, "rope_theta must be above 1 with the rope type 'yarn'");
}

// LongRoPE (arXiv:2402.13753) with the attention factor of its authors' models.
void read_longrope(const Settings& s, RopeConfig& rope) {
  rope.scaling = RopeScaling::kLongRope;
  rope.original_context = original_context(s);
  if (rope.original_context < 2) fail("config", s.label, "the rope's original_max_position_embeddings is 1");
  rope.factors = read_factors(s, "short_factor");
  rope.long_factors = read_factors(s, "long_factor");
  const double longer = std::max(1.0, stretch(s, rope));
  const double advised = std::sqrt(1 + std::log(longer) / std::log(static_cast<double>(rope.original_context)));
  rope.attention_factor = s.positive("attention_factor", s.number("attention_factor", advised));
}

void read_plain_factors(const Settings& s, RopeConfig& rope) {
  rope.scaling = RopeScaling::kFactors;
  rope.factors = read_factors(s, "factors");
}

struct RopeType {
  std::string_view name;
  void (*read)(const Settings& settings, RopeConfig& rope);
};
constexpr RopeType kTypes[] = {{"linear", read_linear},
                               {"llama3", read_llama3},
                               {"yarn", read_yarn},
                               {"longrope", read_longrope},
                               {"factors", read_plain_factors}};

// Llama 3's scaling (arXiv:2407.21783; transformers' rope_type "llama3"): long wavelengths are divided by the
// factor, short ones kept, those between interpolated.
double llama3_frequency(double frequency, const RopeConfig& rope) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const auto context = static_cast<double>(rope.original_context);
  if (wavelength < context / rope.high_freq_factor) return frequency;
  if (wavelength > context / rope.low_freq_factor) return frequency / rope.factor;
  const double smooth = (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

// YaRN (arXiv:2309.00071, 3.2): dimensions that turn more than beta_fast times over the original context are kept,
// those that turn less than beta_slow times are divided by the factor, and a ramp lies between.
class YarnRamp {
 public:
  YarnRamp(const RopeConfig& rope, int64_t head_dim) : factor_(rope.factor) {
    const auto dim = static_cast<double>(head_dim);
    const auto dimension_of = [&](double turns) {
      const double wavelength = static_cast<double>(rope.original_context) / (turns * 2 * std::numbers::pi);
      return dim * std::log(wavelength) / (2 * std::log(rope.theta));
    };
    const double low = dimension_of(rope.beta_fast), high = dimension_of(rope.beta_slow);
    low_ = std::max(rope.truncate ? std::floor(low) : low, 0.0);
    high_ = std::min(rope.truncate ? std::ceil(high) : high, dim - 1);
    if (high_ == low_) high_ += 0.001;
  }
  double operator()(double frequency, size_t i) const {
    const double divided = std::clamp((static_cast<double>(i) - low_) / (high_ - low_), 0.0, 1.0);
    return frequency / factor_ * divided + frequency * (1 - divided);
  }

 private:
  double factor_, low_, high_;
};

}  // namespace

double yarn_attention_factor(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

RopeConfig parse_rope(const Json& config, int64_t head_dim, int64_t context, std::string_view label) {
  static const Json kEmpty = Json::object();
  const auto object = [&](const char* key) -> const Json& {
    const auto it = config.find(key);
    return it == config.end() || !it->is_object() ? kEmpty : *it;
  };
  const Json& modern = object("rope_parameters");
  for (const auto& [key, value] : modern.items())
    if (value.is_object())
      fail("config", label, "rope_parameters for each kind of layer ('" + key + "') are not supported");
  const Settings s{config, modern.empty() ? object("rope_scaling") : modern, head_dim, context, label};
  RopeConfig rope;
  rope.theta = json_value(modern, "rope_theta", json_value(config, "rope_theta", 10000.0, label), label);
  if (!(rope.theta > 0)) fail("config", label, "rope_theta must be positive");
  if (json_value(s.rope, "partial_rotary_factor", json_value(config, "partial_rotary_factor", 1.0, label), label) !=
      1.0)
    fail("config", label, "partial_rotary_factor is not supported");
  const auto old_type = json_value<std::string>(s.rope, "type", "default", label);
  const auto name = json_value<std::string>(s.rope, "rope_type", old_type, label);
  if (name == "default") return rope;
  const auto* type = std::ranges::find(kTypes, name, &RopeType::name);
  if (type == std::end(kTypes))
    fail("config", label, "the rope type '" + name + "' is not supported",
         "Supported are default, linear, llama3, yarn and longrope");
  type->read(s, rope);
  return rope;
}

std::vector<float> rope_frequencies(const ModelConfig& config, int64_t tokens) {
  const RopeConfig& rope = config.rope;
  const bool longer = rope.scaling == RopeScaling::kLongRope && tokens > rope.original_context;
  const std::vector<double>& factors = longer ? rope.long_factors : rope.factors;
  const auto yarn =
      rope.scaling == RopeScaling::kYarn ? std::optional<YarnRamp>({rope, config.head_dim}) : std::nullopt;
  std::vector<float> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = 1.0 / std::pow(rope.theta, 2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (rope.scaling == RopeScaling::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeScaling::kLlama3) frequency = llama3_frequency(frequency, rope);
    if (yarn) frequency = (*yarn)(frequency, i);
    if (!factors.empty()) frequency /= factors[i];
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace retort
