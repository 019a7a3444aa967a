#include "recipes/recipe.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <set>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/text.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr std::array kRecipeParams{
    ParamSpec{.name = "threads",
              .type = ParamType::kInteger,
              .fallback = "",
              .help = "threads",
              .minimum = 1,
              .maximum = 1024},
    ParamSpec{"seed", ParamType::kInteger, "", "seed of everything random"},
    ParamSpec{"device", ParamType::kText, "", "cpu, cuda or cuda:N"},
};

bool is_stage_name(const std::string& name) {
  const auto good = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; };
  return !name.empty() && name.size() <= 64 && name[0] != '-' && std::all_of(name.begin(), name.end(), good);
}

// A text of the file after ${...} was filled in.
struct Filled {
  std::string text;
  bool from_settings = false;  // a path in it is relative to the current directory
};

std::vector<std::string> names_of(const std::map<std::string, std::string>& values) {
  std::vector<std::string> names;
  for (const auto& [name, value] : values) names.push_back(name);
  return names;
}

class Reader {
 public:
  Reader(const fs::path& path, std::span<const Operation> table, const std::map<std::string, std::string>& settings)
      : path_(path), table_(table), settings_(settings) {}

  Recipe read(const std::string& text);

 private:
  using Entry = std::pair<YAML::Node, YAML::Node>;  // of a map, in the order of the file

  [[noreturn]] void refuse(const YAML::Node& node, const std::string& what, std::string_view reason,
                           std::string_view remedy = {}) const {
    fail_usage("recipe", path_.string() + ":" + std::to_string(std::max(node.Mark().line, 0) + 1) + ": " + what, reason,
               remedy);
  }
  std::vector<Entry> entries(const YAML::Node& map, const std::string& what) const;
  void refuse_unknown(const YAML::Node& node, const std::string& name, const std::vector<std::string>& known) const;
  void read_top(const YAML::Node& root);
  void read_variables(const YAML::Node& map);
  void read_stage_names(const YAML::Node& map);
  Stage read_stage(const std::string& name, const YAML::Node& map);
  void read_gates(const YAML::Node& list, const std::string& stage);
  void check_metric(const YAML::Node& node, const Metric& metric) const;
  const Operation& read_operation(const std::string& stage, const YAML::Node& map) const;
  Filled fill(const YAML::Node& scalar, const std::string& what) const;
  Json value_of(const YAML::Node& node, const std::string& what) const;
  StageInput read_input(const ParamSpec& spec, const YAML::Node& node, const std::string& what) const;
  Json checked_params(const std::string& stage, const Operation& operation, const YAML::Node& map) const;
  void sort_stages();

  fs::path path_;
  std::span<const Operation> table_;
  const std::map<std::string, std::string>& settings_;
  std::map<std::string, std::string> variables_;
  std::vector<std::string> stage_names_;
  std::map<std::string, YAML::Node> stage_nodes_;
  Recipe recipe_;
};

std::vector<Reader::Entry> Reader::entries(const YAML::Node& map, const std::string& what) const {
  if (!map.IsMap()) refuse(map, what, "it must be a map of names to values");
  std::vector<Entry> list;
  std::set<std::string> seen;
  for (const auto& entry : map) {
    if (!entry.first.IsScalar()) refuse(entry.first, what, "a name must be a plain text");
    if (!seen.insert(entry.first.Scalar()).second) refuse(entry.first, entry.first.Scalar(), "it is given twice");
    list.emplace_back(entry.first, entry.second);
  }
  return list;
}

void Reader::refuse_unknown(const YAML::Node& node, const std::string& name,
                            const std::vector<std::string>& known) const {
  if (std::find(known.begin(), known.end(), name) == known.end())
    refuse(node, name, "there is no such key", "The nearest is '" + nearest_name(name, known) + "'");
}

Filled Reader::fill(const YAML::Node& scalar, const std::string& what) const {
  if (!scalar.IsScalar()) refuse(scalar, what, "its value must be a plain text or number");
  std::string_view rest = scalar.Scalar();
  Filled filled;
  for (size_t start; (start = rest.find("${")) != std::string_view::npos;) {
    const size_t end = rest.find('}', start);
    if (end == std::string_view::npos) refuse(scalar, what, "'${' without '}'");
    const std::string name(rest.substr(start + 2, end - start - 2));
    if (!variables_.contains(name))
      refuse(scalar, what, "there is no variable '" + name + "'",
             "The nearest is '" + nearest_name(name, names_of(variables_)) + "'");
    filled.from_settings |= settings_.contains(name) && filled.text.empty() && start == 0;
    filled.text.append(rest.substr(0, start)).append(variables_.at(name));
    rest.remove_prefix(end + 1);
  }
  filled.text += rest;
  return filled;
}

Json Reader::value_of(const YAML::Node& node, const std::string& what) const {
  if (!node.IsSequence()) return fill(node, what).text;
  Json list = Json::array();
  for (const YAML::Node& item : node) list.push_back(fill(item, what).text);
  return list;
}

void Reader::read_variables(const YAML::Node& map) {
  for (const auto& [key, value] : entries(map, "variables")) variables_[key.Scalar()] = fill(value, key.Scalar()).text;
  for (const auto& [name, value] : settings_) {
    if (!variables_.contains(name))
      fail_usage(
          "recipe", "--set " + name, "the recipe has no such variable",
          variables_.empty() ? "It has none" : "The nearest is '" + nearest_name(name, names_of(variables_)) + "'");
    variables_[name] = value;
  }
}

void Reader::read_stage_names(const YAML::Node& map) {
  for (const auto& [key, value] : entries(map, "stages")) {
    if (!is_stage_name(key.Scalar()))
      refuse(key, "'" + key.Scalar().substr(0, 80) + "'", "a stage's name is made of letters, digits, - and _");
    stage_names_.push_back(key.Scalar());
    stage_nodes_[key.Scalar()] = value;
  }
  if (stage_names_.empty()) refuse(map, "stages", "there is none");
}

const Operation& Reader::read_operation(const std::string& stage, const YAML::Node& map) const {
  if (!map["operation"]) refuse(map, stage, "its operation is missing", "Add a key 'operation'");
  const std::string name = fill(map["operation"], stage + ".operation").text;
  std::vector<std::string> known;
  for (const Operation& operation : table_) {
    if (operation.stage && operation.name == name) return operation;
    if (operation.stage) known.emplace_back(operation.name);
  }
  refuse(map["operation"], stage + ".operation", "there is no operation '" + name + "' for a stage",
         "The nearest is '" + nearest_name(name, known) + "'");
}

StageInput Reader::read_input(const ParamSpec& spec, const YAML::Node& node, const std::string& what) const {
  const Filled filled = fill(node, what);
  if (std::find(stage_names_.begin(), stage_names_.end(), filled.text) != stage_names_.end())
    return {std::string(spec.name), filled.text, {}};
  const fs::path base = filled.from_settings ? fs::path() : path_.parent_path();
  const fs::path path = (base / filled.text).lexically_normal();
  if (filled.text.empty() || !fs::exists(path))
    refuse(node, what, "'" + filled.text + "' is neither a stage nor a file (" + path.string() + ")",
           "The nearest stage is '" + nearest_name(filled.text, stage_names_) + "'");
  return {std::string(spec.name), "", path};
}

// Unknown keys and values of the wrong type, each with the line where it stands.
Json Reader::checked_params(const std::string& stage, const Operation& operation, const YAML::Node& map) const {
  Json values = Json::object();
  std::map<std::string, YAML::Node> nodes;
  std::vector<std::string> known{"operation", "gates"};
  for (const ParamSpec& spec : operation.params) known.emplace_back(spec.name);
  for (const auto& [key, value] : entries(map, stage)) {
    refuse_unknown(key, key.Scalar(), known);
    if (key.Scalar() == "operation" || key.Scalar() == "gates") continue;
    const auto beside = [&](const ParamSpec& spec) { return spec.writes_beside && spec.name == key.Scalar(); };
    if (std::ranges::any_of(operation.params, beside))
      refuse(key, stage + "." + key.Scalar(),
             "it names a file outside the stage's result, which a stage that was done "
             "before would not write again",
             "Write that file with a command of its own");
    values[key.Scalar()] = value_of(value, stage + "." + key.Scalar());
    nodes[key.Scalar()] = key;
  }
  const ParamLabel label = [&](std::string_view name) {
    const auto found = nodes.find(std::string(name));
    const int line = (found == nodes.end() ? map : found->second).Mark().line + 1;
    return path_.string() + ":" + std::to_string(line) + ": " + stage + "." + std::string(name);
  };
  return check_params(operation, values, "recipe", label).json();
}

Stage Reader::read_stage(const std::string& name, const YAML::Node& map) {
  if (!map.IsMap()) refuse(map, name, "a stage must be a map with the key 'operation'");
  Stage stage;
  stage.name = name;
  stage.operation = &read_operation(name, map);
  stage.params = checked_params(name, *stage.operation, map);
  for (const ParamSpec& spec : stage.operation->params) {
    const std::string key(spec.name);
    const bool is_input = spec.type == ParamType::kModel || spec.type == ParamType::kFile;
    if (!is_input || !map[key]) continue;
    stage.inputs.push_back(read_input(spec, map[key], name + "." + key));
    const std::string& from = stage.inputs.back().stage;
    if (!from.empty() && read_operation(from, stage_nodes_.at(from)).output == OutputKind::kNone)
      refuse(map[key], name + "." + key, "the stage '" + from + "' has no result that another can read");
  }
  if (map["gates"]) read_gates(map["gates"], name);
  return stage;
}

void Reader::check_metric(const YAML::Node& node, const Metric& metric) const {
  if (!metric.stage.empty() && std::find(stage_names_.begin(), stage_names_.end(), metric.stage) == stage_names_.end())
    refuse(node, "gates", "there is no stage '" + metric.stage + "'",
           "The nearest is '" + nearest_name(metric.stage, stage_names_) + "'");
}

void Reader::read_gates(const YAML::Node& list, const std::string& stage) {
  if (!list.IsSequence()) refuse(list, "gates", "it must be a list");
  for (const YAML::Node& item : list) {
    const std::string text = fill(item, "gates").text;
    const std::optional<Gate> gate = parse_gate(text, stage);
    if (!gate) refuse(item, "gates", "'" + text + "' is no condition", "Write it as STAGE.KEY < NUMBER");
    check_metric(item, gate->left);
    check_metric(item, gate->right);
    recipe_.gates.push_back(*gate);
  }
}

void Reader::read_top(const YAML::Node& root) {
  const std::vector<std::string> known{"description", "threads", "seed", "device", "variables", "stages", "gates"};
  Json values = Json::object();
  std::map<std::string, YAML::Node> nodes;
  for (const auto& [key, value] : entries(root, "recipe")) {
    refuse_unknown(key, key.Scalar(), known);
    nodes[key.Scalar()] = value;
    for (const ParamSpec& spec : kRecipeParams)
      if (spec.name == key.Scalar()) values[key.Scalar()] = fill(value, key.Scalar()).text;
  }
  const ParamLabel label = [&](std::string_view name) {
    const auto found = nodes.find(std::string(name));
    const std::string line = found == nodes.end() ? "" : ":" + std::to_string(found->second.Mark().line + 1);
    return path_.string() + line + ": " + std::string(name);
  };
  const Params params = check_params(kRecipeParams, values, "recipe", label);
  if (params.has("threads")) recipe_.threads = params.integer("threads");
  if (params.has("seed")) recipe_.seed = static_cast<uint64_t>(params.integer("seed"));
  if (params.has("device")) recipe_.device = params.text("device");
  if (recipe_.device && !is_device(*recipe_.device))
    refuse(nodes.at("device"), "device", "'" + *recipe_.device + "' is no device", "Give cpu, cuda or cuda:N");
}

// Kahn's algorithm, always taking the first stage of the file that is free.
void Reader::sort_stages() {
  std::vector<Stage> waiting = std::exchange(recipe_.stages, {});
  std::set<std::string> done;
  while (!waiting.empty()) {
    const auto free = std::find_if(waiting.begin(), waiting.end(), [&](const Stage& stage) {
      return std::all_of(stage.inputs.begin(), stage.inputs.end(),
                         [&](const StageInput& i) { return i.stage.empty() || done.contains(i.stage); });
    });
    if (free == waiting.end()) {
      std::string names;
      for (const Stage& stage : waiting) names += (names.empty() ? "'" : ", '") + stage.name + "'";
      refuse(stage_nodes_.at(waiting.front().name), "stages", "these wait for each other: " + names);
    }
    done.insert(free->name);
    recipe_.stages.push_back(std::move(*free));
    waiting.erase(free);
  }
}

Recipe Reader::read(const std::string& text) {
  const YAML::Node root = YAML::Load(text);
  recipe_.path = path_;
  read_top(root);
  read_variables(root["variables"] ? root["variables"] : YAML::Node(YAML::NodeType::Map));
  if (!root["stages"]) refuse(root, "stages", "the key is missing");
  read_stage_names(root["stages"]);
  for (const std::string& name : stage_names_) recipe_.stages.push_back(read_stage(name, stage_nodes_.at(name)));
  if (root["gates"]) read_gates(root["gates"], "");
  sort_stages();
  return std::move(recipe_);
}

}  // namespace

Recipe read_recipe(const fs::path& path, std::span<const Operation> table,
                   const std::map<std::string, std::string>& settings) {
  return parse_recipe(read_text_file(path), path, table, settings);
}

Recipe parse_recipe(const std::string& text, const fs::path& path, std::span<const Operation> table,
                    const std::map<std::string, std::string>& settings) {
  try {
    return Reader(path, table, settings).read(text);
  } catch (const YAML::Exception& e) {
    fail_usage("recipe", path.string() + ":" + std::to_string(e.mark.line + 1), e.msg);
  }
}

}  // namespace retort
