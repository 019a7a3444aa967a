#include "export/verify/config_numbers.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "core/arch/family.h"
#include "export/tensors.h"

namespace retort {
namespace {

constexpr double kTolerance = 1e-6;  // relative: several roundings to float32

constexpr const char* kWithinWindow = "context length within the window";

bool close(double a, double b) { return std::abs(a - b) <= kTolerance * std::max(std::abs(a), std::abs(b)); }

std::string text_of(const std::vector<double>& values, size_t at) {
  std::ostringstream text;
  if (at < values.size())
    text << values[at];
  else
    text << "nothing";
  return std::move(text).str();
}

template <typename T>
std::vector<double> as_doubles(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

std::vector<ConfigNumber> numbers_of(const ModelConfig& c, const std::string& place) {
  std::vector<ConfigNumber> numbers;
  const auto add = [&](const char* name, std::vector<double> values) { numbers.push_back({place, name, values}); };
  const auto size = [&](const char* name, int64_t value) { add(name, {static_cast<double>(value)}); };
  size("vocabulary", c.vocab_size);
  size("hidden size", c.hidden_size);
  size("intermediate size", c.ffn_size);
  size("layers", c.layers);
  size("attention heads", c.heads);
  size("key-value heads", c.kv_heads);
  size("size of a head", c.head_dim);
  size("context length", c.context_length);
  size("tied embeddings", c.tied_embeddings);
  add("norm epsilon", {c.norm_eps});
  add("rotary frequencies", as_doubles(rope_frequencies(c)));
  if (c.rope.scaling == RopeScaling::kLongRope)
    add("rotary frequencies of long sequences", as_doubles(rope_frequencies(c, c.rope.original_context + 1)));
  add("rotary scale", {c.rope.attention_factor});
  add("windows", as_doubles(c.windows));
  add("attention scale", {1 / std::sqrt(static_cast<double>(c.head_dim))});
  if (c.bos_id) size("BOS token", *c.bos_id);
  return numbers;
}

std::vector<ConfigNumber> numbers_without_windows(std::vector<ConfigNumber> numbers, const ModelConfig& model) {
  const bool windowed = std::ranges::any_of(model.windows, [](int64_t window) { return window != 0; });
  if (!windowed) return numbers;
  std::erase_if(numbers, [](const ConfigNumber& number) { return number.name == "windows"; });
  for (ConfigNumber& number : numbers)
    if (number.name == "context length") number.name = kWithinWindow;
  return numbers;
}

std::vector<ConfigNumber> numbers_of_genai(const Json& json, const std::string& place) {
  static const Json kEmpty = Json::object();
  const auto child = [](const Json& parent, const char* key) -> const Json& {
    const auto found = parent.find(key);
    return found == parent.end() || !found->is_object() ? kEmpty : *found;
  };
  const Json& model = child(json, "model");
  const Json& decoder = child(model, "decoder");
  std::vector<ConfigNumber> numbers;
  const auto add = [&](const char* name, const Json& object, const char* key) {
    numbers.push_back({place, name, {static_cast<double>(json_required<int64_t>(object, key, place))}});
  };
  add("vocabulary", model, "vocab_size");
  add("context length", model, "context_length");
  add("hidden size", decoder, "hidden_size");
  add("layers", decoder, "num_hidden_layers");
  add("attention heads", decoder, "num_attention_heads");
  add("key-value heads", decoder, "num_key_value_heads");
  add("size of a head", decoder, "head_size");
  return numbers;
}

std::vector<std::string> number_differences(const std::vector<ConfigNumber>& found, const ModelConfig& model) {
  std::vector<ConfigNumber> expected = numbers_of(model, "model");
  expected.push_back({"model", kWithinWindow, {static_cast<double>(exact_context(model))}});
  std::vector<std::string> lines;
  for (const ConfigNumber& number : found) {
    const auto right = std::ranges::find(expected, number.name, &ConfigNumber::name);
    const std::vector<double> values = right == expected.end() ? std::vector<double>() : right->values;
    for (size_t i = 0; i < std::max(values.size(), number.values.size()); ++i) {
      if (i < values.size() && i < number.values.size() && close(values[i], number.values[i])) continue;
      lines.push_back(number.place + ": " + number.name + ": " + text_of(number.values, i) + " instead of " +
                      text_of(values, i) + (values.size() > 1 ? " at " + std::to_string(i) : ""));
      break;
    }
  }
  return lines;
}

}  // namespace retort
