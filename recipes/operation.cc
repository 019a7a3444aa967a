#include "recipes/operation.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>

#include "core/base/error.h"
#include "core/base/text.h"

namespace retort {
namespace {

// What a value is checked against, and how an error about it begins.
struct Site {
  const ParamSpec& spec;
  std::string_view operation;
  std::string label;

  [[noreturn]] void refuse(std::string_view reason, std::string_view remedy = {}) const {
    fail_usage(operation, label, reason, remedy);
  }
};

std::vector<std::string> split_choices(std::string_view choices) {
  std::vector<std::string> names;
  while (!choices.empty()) {
    const size_t bar = std::min(choices.find('|'), choices.size());
    names.emplace_back(choices.substr(0, bar));
    choices.remove_prefix(std::min(bar + 1, choices.size()));
  }
  return names;
}

std::string shown(const Json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  return "'" + text.substr(0, 80) + "'";
}

std::string format_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.15g", value);
  return text;
}

// The whole of `value` as a T; NaN and infinity are no numbers here.
template <typename T>
T parse_number(const Site& site, const Json& value, const char* kind) {
  T number{};
  bool good = false;
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    good = error == std::errc() && end == text.data() + text.size();
    if (error == std::errc::result_out_of_range) site.refuse(shown(value) + " is too large");
  } else if (std::is_integral_v<T> ? value.is_number_integer() : value.is_number()) {
    if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) site.refuse(shown(value) + " is too large");
    number = value.get<T>();
    good = true;
  }
  if (!good || !std::isfinite(static_cast<double>(number))) site.refuse(shown(value) + " is not " + kind);
  const auto compared = static_cast<double>(number);
  if (compared < site.spec.minimum)
    site.refuse(shown(value) + " is less than " + format_number(site.spec.minimum), "Give a larger value");
  if (compared > site.spec.maximum)
    site.refuse(shown(value) + " is more than " + format_number(site.spec.maximum), "Give a smaller value");
  return number;
}

std::string check_text(const Site& site, const Json& value) {
  if (!value.is_string()) site.refuse(value.dump().substr(0, 80) + " is not a text");
  auto text = value.get<std::string>();
  if (text.find('\0') != std::string::npos) site.refuse("the text holds a zero byte");
  const std::vector<std::string> choices = split_choices(site.spec.choices);
  if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end())
    site.refuse(shown(value) + " is not one of " + std::string(site.spec.choices),
                "The nearest is '" + nearest_name(text, choices) + "'");
  return text;
}

std::string check_path(const Site& site, const Json& value) {
  std::string text = check_text(site, value);
  if (text.empty()) site.refuse("the path is empty");
  return text;
}

bool check_flag(const Site& site, const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value == "true") return true;
  if (value == "false") return false;
  site.refuse(shown(value) + " is neither true nor false");
}

Json check_size(const Site& site, const Json& value) {
  if (value.is_number_unsigned()) return value;
  return parse_size(check_text(site, value), site.label);
}

Json check_list(const Site& site, const Json& value) {
  Json list = Json::array();
  if (!value.is_array()) {
    list.push_back(check_text(site, value));
    return list;
  }
  for (const Json& item : value) list.push_back(check_text(site, item));
  return list;
}

Json check_value(const Site& site, const Json& value) {
  switch (site.spec.type) {
    case ParamType::kText: return check_text(site, value);
    case ParamType::kInteger: return parse_number<int64_t>(site, value, "an integer");
    case ParamType::kNumber: return parse_number<double>(site, value, "a number");
    case ParamType::kSize: return check_size(site, value);
    case ParamType::kFlag: return check_flag(site, value);
    case ParamType::kList: return check_list(site, value);
    case ParamType::kModel:
    case ParamType::kFile: return check_path(site, value);
  }
  throw std::logic_error("unknown parameter type");
}

const ParamSpec* find_spec(std::span<const ParamSpec> specs, std::string_view name) {
  const auto found = std::find_if(specs.begin(), specs.end(), [&](const ParamSpec& s) { return s.name == name; });
  return found == specs.end() ? nullptr : &*found;
}

void refuse_unknown(std::span<const ParamSpec> specs, std::string_view name, std::string_view operation,
                    const std::string& label) {
  std::vector<std::string> names;
  for (const ParamSpec& spec : specs) names.emplace_back(spec.name);
  const std::string nearest = nearest_name(name, names);
  fail_usage(operation, label, "there is no such parameter",
             nearest.empty() ? "It takes none" : "The nearest is '" + nearest + "'");
}

// The value of a parameter that has the type `type` by the table; its absence is our own mistake.
const Json& stored(std::span<const ParamSpec> specs, const Json& values, std::string_view name,
                   std::initializer_list<ParamType> types) {
  const ParamSpec* spec = find_spec(specs, name);
  if (spec == nullptr || std::find(types.begin(), types.end(), spec->type) == types.end())
    throw std::logic_error("the operation's table has no parameter '" + std::string(name) + "' of this type");
  const auto found = values.find(std::string(name));
  if (found == values.end()) throw std::logic_error("the parameter '" + std::string(name) + "' has no value");
  return *found;
}

}  // namespace

bool Params::has(std::string_view name) const {
  if (find_spec(specs_, name) == nullptr)
    throw std::logic_error("the operation's table has no parameter '" + std::string(name) + "'");
  return values_.contains(std::string(name));
}

std::string Params::text(std::string_view name) const {
  return stored(specs_, values_, name, {ParamType::kText, ParamType::kModel, ParamType::kFile}).get<std::string>();
}

int64_t Params::integer(std::string_view name) const {
  return stored(specs_, values_, name, {ParamType::kInteger, ParamType::kSize}).get<int64_t>();
}

double Params::number(std::string_view name) const {
  return stored(specs_, values_, name, {ParamType::kNumber}).get<double>();
}

bool Params::flag(std::string_view name) const {
  return has(name) && stored(specs_, values_, name, {ParamType::kFlag});
}

std::vector<std::string> Params::list(std::string_view name) const {
  if (!has(name)) return {};
  return stored(specs_, values_, name, {ParamType::kList}).get<std::vector<std::string>>();
}

std::filesystem::path Params::path(std::string_view name) const { return text(name); }

Params check_params(std::span<const ParamSpec> specs, const Json& values, std::string_view operation,
                    const ParamLabel& label) {
  const auto labelled = [&](std::string_view name) { return label ? label(name) : std::string(name); };
  for (const auto& [name, value] : values.items())
    if (find_spec(specs, name) == nullptr) refuse_unknown(specs, name, operation, labelled(name));
  Json checked = Json::object();
  for (const ParamSpec& spec : specs) {
    const std::string name(spec.name);
    const Site site{spec, operation, labelled(spec.name)};
    if (const auto given = values.find(name); given != values.end())
      checked[name] = check_value(site, *given);
    else if (!spec.fallback.empty())
      checked[name] = check_value(site, std::string(spec.fallback));
    else if (spec.required)
      site.refuse("it is required and was not given");
  }
  return {specs, std::move(checked)};
}

Params check_params(const Operation& operation, const Json& values, std::string_view reader, const ParamLabel& label) {
  Params params = check_params(operation.params, values, reader, label);
  if (operation.unheeded == nullptr) return params;
  for (const auto& [name, value] : values.items())
    if (const std::string reason = operation.unheeded(params, name); !reason.empty())
      fail_usage(reader, label ? label(name) : name, reason, "Leave it out");
  return params;
}

bool is_device(std::string_view text) {
  const bool numbered = text.starts_with("cuda:") && text.size() > 5 && text.size() < 9 &&
                        text.find_first_not_of("0123456789", 5) == std::string_view::npos;
  return text == "cpu" || text == "cuda" || numbered;
}

std::string_view option_of_directory(const Params& params) {
  constexpr std::string_view kOptions[] = {"max-shard-size", "modelfile", "card"};
  const auto* given = std::ranges::find_if(kOptions, [&](std::string_view name) {
    const auto value = params.json().find(name);
    return value != params.json().end() && !value->is_null() && *value != false;
  });
  return given == std::end(kOptions) || params.text("format") != "gguf" ? std::string_view() : *given;
}

bool writes_directory(const Operation& operation, const Params& params) {
  if (operation.output != OutputKind::kByFormat) return operation.output == OutputKind::kDirectory;
  return params.text("format") != "gguf" || !option_of_directory(params).empty();
}

const Operation* find_operation(std::span<const Operation> table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Operation& o) { return o.name == name; });
  return found == table.end() ? nullptr : &*found;
}

}  // namespace retort
