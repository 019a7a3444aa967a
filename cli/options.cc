#include "cli/options.h"

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cctype>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"

namespace po = boost::program_options;

namespace retort {
namespace {

constexpr std::array kShared{
    ParamSpec{"output", ParamType::kText, "", "where the result goes; written under a temporary name first"},
    ParamSpec{"overwrite", ParamType::kFlag, "", "replace an existing output"},
    ParamSpec{"device", ParamType::kText, "cpu", "cpu, cuda or cuda:N"},
    ParamSpec{.name = "threads",
              .type = ParamType::kInteger,
              .fallback = "",
              .help = "number of threads; without it all cores",
              .minimum = 1,
              .maximum = 1024},
    ParamSpec{"memory", ParamType::kSize, "", "keep under this much memory, such as 8GiB, or refuse to start"},
    ParamSpec{"seed", ParamType::kInteger, "0", "of everything random"},
    ParamSpec{"json", ParamType::kFlag, "", "print one JSON object on standard output"},
    ParamSpec{"quiet", ParamType::kFlag, "", "no progress and no messages"},
    ParamSpec{"verbose", ParamType::kFlag, "", "say more: settings, time and memory used"},
    ParamSpec{"help", ParamType::kFlag, "", "show this text"},
};

constexpr const char* kExtra = " extra";  // collects arguments beyond the positional ones

bool is_own(const Operation& operation, std::string_view name) {
  return std::any_of(operation.params.begin(), operation.params.end(),
                     [&](const ParamSpec& spec) { return spec.name == name; });
}

std::string upper(std::string_view name) {
  std::string text(name);
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

std::string value_name(const ParamSpec& spec) {
  switch (spec.type) {
    case ParamType::kInteger: return "N";
    case ParamType::kNumber: return "X";
    case ParamType::kSize: return "SIZE";
    case ParamType::kModel: return "MODEL";
    case ParamType::kFile: return "PATH";
    default: return spec.name == "output" ? "PATH" : spec.choices.empty() ? "TEXT" : std::string(spec.choices);
  }
}

std::string described(const ParamSpec& spec) {
  std::string text(spec.help);
  if (spec.required && !spec.positional) text += " (required)";
  if (spec.type == ParamType::kList) text += " (repeatable)";
  if (!spec.fallback.empty()) text += " [default: " + std::string(spec.fallback) + "]";
  return text;
}

void add_option(po::options_description& group, const ParamSpec& spec) {
  const std::string name = std::string(spec.name) + (spec.name == "output" ? ",o" : spec.name == "help" ? ",h" : "");
  if (spec.type == ParamType::kFlag)
    group.add_options()(name.c_str(), "");
  else
    group.add_options()(name.c_str(), po::value<std::string>(), "");
}

po::options_description all_options(const Operation& operation) {
  po::options_description all;
  for (const ParamSpec& spec : operation.params) add_option(all, spec);
  for (const ParamSpec& spec : kShared)
    if (!is_own(operation, spec.name)) add_option(all, spec);
  all.add_options()(kExtra, po::value<std::string>());
  return all;
}

std::vector<std::string> option_names(const Operation& operation) {
  std::vector<std::string> names;
  for (const ParamSpec& spec : operation.params)
    if (!spec.positional) names.push_back("--" + std::string(spec.name));
  for (const ParamSpec& spec : kShared) names.push_back("--" + std::string(spec.name));
  return names;
}

[[noreturn]] void refuse_option(const Operation& operation, const std::string& option) {
  const std::string nearest = nearest_name(option, option_names(operation));
  fail_usage(operation.name, option, "there is no such option", "The nearest is " + nearest);
}

std::vector<po::basic_option<char>> tokenize(const Operation& operation, const std::vector<std::string>& arguments) {
  const po::options_description all = all_options(operation);
  po::positional_options_description positions;
  for (const ParamSpec& spec : operation.params)
    if (spec.positional) positions.add(std::string(spec.name).c_str(), 1);
  positions.add(kExtra, -1);
  namespace style = po::command_line_style;
  const int exact = style::default_style & ~style::allow_guessing;
  try {
    return po::command_line_parser(arguments).options(all).positional(positions).style(exact).run().options;
  } catch (const po::unknown_option& e) {
    refuse_option(operation, e.get_option_name());
  } catch (const po::invalid_command_line_syntax& e) {
    const bool missing =
        e.kind() == po::invalid_syntax::missing_parameter || e.kind() == po::invalid_syntax::empty_adjacent_parameter;
    fail_usage(operation.name, e.get_option_name(), missing ? "its value is missing" : "it takes no value");
  } catch (const po::error& e) {
    fail_usage(operation.name, "options", e.what());
  }
}

// `--output --json` lacks a path; whoever wants that text writes --output=--json.
void refuse_option_as_value(const Operation& operation, const po::basic_option<char>& option) {
  const std::vector<std::string> names = option_names(operation);
  if (option.original_tokens.size() == 2 &&
      std::find(names.begin(), names.end(), option.original_tokens[1]) != names.end())
    fail_usage(operation.name, "--" + option.string_key, "its value is missing");
}

void store(Json& values, const Operation& operation, const ParamSpec& spec, const po::basic_option<char>& option) {
  const std::string name(spec.name);
  refuse_option_as_value(operation, option);
  if (spec.type == ParamType::kList) {
    values[name].push_back(option.value.at(0));
    return;
  }
  if (values.contains(name)) fail_usage(operation.name, "--" + name, "it is given twice");
  if (spec.type == ParamType::kFlag)
    values[name] = true;
  else
    values[name] = option.value.at(0);
}

std::string label_of(const Operation& operation, std::string_view name) {
  const auto spec = std::find_if(operation.params.begin(), operation.params.end(),
                                 [&](const ParamSpec& s) { return s.name == name && s.positional; });
  return spec == operation.params.end() ? "--" + std::string(name) : upper(name);
}

const Operation& required_operation(std::span<const Operation> table, const std::string& name) {
  if (const Operation* found = find_operation(table, name)) return *found;
  std::vector<std::string> names;
  for (const Operation& operation : table) names.emplace_back(operation.name);
  fail_usage("usage", "'" + name + "'", "there is no such command",
             "The nearest is '" + nearest_name(name, names) + "'; `retort --help` lists all");
}

constexpr size_t kHelpColumn = 30, kHelpWidth = 110;

// "  -o, --output PATH      where the result goes", with the text wrapped in its column.
std::string help_entry(const std::string& name, const std::string& description) {
  std::string text, line = "  " + name;
  std::istringstream words(description);
  if (line.size() + 2 > kHelpColumn) text += std::exchange(line, "") + "\n";
  line.resize(kHelpColumn - 1, ' ');
  for (std::string word; words >> word;) {
    if (line.size() + 1 + word.size() > kHelpWidth) {
      text += line + "\n";
      line.assign(kHelpColumn - 1, ' ');
    }
    line += " " + word;
  }
  return text + line + "\n";
}

std::string option_form(const ParamSpec& spec) {
  const std::string letter = spec.name == "output" ? "-o, " : spec.name == "help" ? "-h, " : "";
  const std::string value = spec.type == ParamType::kFlag ? "" : " " + value_name(spec);
  return letter + "--" + std::string(spec.name) + value;
}

std::string usage_line(const Operation& operation) {
  std::string line = "retort " + std::string(operation.name);
  for (const ParamSpec& spec : operation.params)
    if (spec.positional) line += (spec.required ? " " : " [") + upper(spec.name) + (spec.required ? "" : "]");
  return line + " [OPTIONS]";
}

}  // namespace

std::span<const ParamSpec> shared_params() { return kShared; }

CommandLine parse_command_line(std::span<const Operation> table, const std::vector<std::string>& arguments) {
  const Operation& operation = required_operation(table, arguments.front());
  const auto options = tokenize(operation, {arguments.begin() + 1, arguments.end()});
  Json own = Json::object(), shared = Json::object();
  for (const po::basic_option<char>& option : options) {
    if (option.string_key == kExtra)
      fail_usage(operation.name, "'" + option.value.at(0) + "'", "one argument too many");
    for (const ParamSpec& spec : operation.params)
      if (spec.name == option.string_key) store(own, operation, spec, option);
    for (const ParamSpec& spec : kShared)
      if (spec.name == option.string_key) store(shared, operation, spec, option);
  }
  CommandLine line;
  line.operation = &operation;
  line.help = shared.contains("help");
  if (line.help) return line;
  const ParamLabel label = [&](std::string_view name) { return label_of(operation, name); };
  line.shared = check_params(kShared, shared, operation.name, label);
  line.params = check_params(operation, own, operation.name, label);
  return line;
}

std::string program_help(std::span<const Operation> table) {
  std::string text = "Usage: retort COMMAND [OPTIONS] [ARGUMENTS]\n\nCommands:\n";
  for (const Operation& operation : table) {
    std::string name(operation.name);
    name.resize(std::max<size_t>(12, name.size() + 1), ' ');
    text.append("  ").append(name).append(operation.summary).append("\n");
  }
  return text +
         "\n`retort COMMAND --help` shows the options of a command; `retort --version` the version.\n"
         "Exit codes: 0 done as asked, 1 failed, 2 wrong usage, 3 finished but not as asked, 130 interrupted.";
}

std::string command_help(const Operation& operation) {
  std::string text = "Usage: " + usage_line(operation) + "\n\n" + std::string(operation.summary) + "\n";
  for (const ParamSpec& spec : operation.params)
    if (spec.positional) text += "\n" + help_entry(upper(spec.name), described(spec));
  text += "\nOptions:\n";
  for (const ParamSpec& spec : operation.params)
    if (!spec.positional) text += help_entry(option_form(spec), described(spec));
  text += "\nOptions of every command:\n";
  for (const ParamSpec& spec : kShared)
    if (!is_own(operation, spec.name)) text += help_entry(option_form(spec), described(spec));
  text.pop_back();
  return text;
}

}  // namespace retort
