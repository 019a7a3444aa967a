#include "recipes/gate.h"

#include <charconv>
#include <regex>

namespace retort {
namespace {

std::optional<double> parse_double(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Metric> parse_metric(const std::string& text, const std::string& stage) {
  if (const auto number = parse_double(text)) return Metric{"", "", *number};
  const size_t dot = text.find('.');
  if (dot == std::string::npos) return stage.empty() ? std::nullopt : std::optional(Metric{stage, text});
  if (dot == 0 || dot + 1 == text.size()) return std::nullopt;
  return Metric{text.substr(0, dot), text.substr(dot + 1)};
}

}  // namespace

std::optional<Gate> parse_gate(std::string_view text, const std::string& stage) {
  static const std::regex form(R"(\s*([\w.-]+)\s*(<=|>=|<|>)\s*(?:([\w.+-]+)\s*\*\s*)?([\w.+-]+)\s*)");
  if (text.size() > 300) return std::nullopt;  // std::regex recurses
  const std::string whole(text);
  std::smatch parts;
  if (!std::regex_match(whole, parts, form)) return std::nullopt;
  const auto left = parse_metric(parts[1], stage), right = parse_metric(parts[4], stage);
  const auto factor = parts[3].matched ? parse_double(parts[3]) : std::optional(1.0);
  if (!left || !right || !factor) return std::nullopt;
  return Gate{whole, *left, *right, parts[2], *factor};
}

GateResult evaluate_gate(const Gate& gate, const std::function<double(const Metric&)>& measured) {
  const auto value_of = [&](const Metric& metric) { return metric.stage.empty() ? metric.number : measured(metric); };
  const double value = value_of(gate.left), limit = gate.factor * value_of(gate.right);
  const bool passed = gate.comparison == "<"    ? value < limit
                      : gate.comparison == "<=" ? value <= limit
                      : gate.comparison == ">"  ? value > limit
                                                : value >= limit;
  return {value, limit, passed};
}

}  // namespace retort
