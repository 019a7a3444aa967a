#include "recipes/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/text.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

// Digests of results by stage; a stage that has yet to run has none.
using Results = std::map<std::string, std::string>;

std::optional<std::string> key_of(const Stage& stage, const Results& results, StageCache& cache,
                                  const Context& context) {
  std::map<std::string, std::string> digests;
  for (const StageInput& input : stage.inputs) {
    if (input.stage.empty())
      digests[input.param] = cache.digests().of(input.path);
    else if (const auto found = results.find(input.stage); found != results.end())
      digests[input.param] = found->second;
    else
      return std::nullopt;
  }
  return stage_key(stage, digests, context);
}

// The parameters as the operation wants them: paths in the place of stages.
Json resolved_params(const Stage& stage, const Recipe& recipe, const StageCache& cache) {
  Json values = stage.params;
  for (const StageInput& input : stage.inputs) {
    const auto from = std::find_if(recipe.stages.begin(), recipe.stages.end(),
                                   [&](const Stage& other) { return other.name == input.stage; });
    values[input.param] = (from == recipe.stages.end() ? input.path : cache.shown_path(*from)).string();
  }
  return values;
}

StageOutcome run_stage(const Recipe& recipe, const Stage& stage, const std::string& key, const std::string& place,
                       StageCache& cache, Context& context) {
  StageOutcome outcome{&stage, true, {}, stage.has_output() ? cache.shown_path(stage) : fs::path()};
  if (const std::optional<StageRecord> record = cache.find(stage, key)) {
    outcome.record = *record;
  } else {
    context.progress.message(fmt::format("{} {}: {}", place, stage.name, stage.operation->name));
    outcome.cached = false;
    outcome.record = cache.run(stage, key, resolved_params(stage, recipe, cache), context);
  }
  cache.show(stage, key);
  return outcome;
}

double measured(const RecipeOutcome& outcome, const Metric& metric) {
  const auto found = std::find_if(outcome.stages.begin(), outcome.stages.end(),
                                  [&](const StageOutcome& s) { return s.stage->name == metric.stage; });
  const StageRecord& record = found->record;
  if (metric.key == "seconds") return record.seconds;
  if (metric.key == "bytes") return static_cast<double>(record.bytes);
  const auto value = record.metrics.find(metric.key);
  if (value != record.metrics.end() && value->is_number()) return value->get<double>();
  if (value != record.metrics.end() && value->is_null()) return std::numeric_limits<double>::quiet_NaN();
  std::vector<std::string> known{"seconds", "bytes"};
  for (const auto& [key, number] : record.metrics.items())
    if (number.is_number()) known.push_back(key);
  fail("run", metric.stage + "." + metric.key, "the stage did not measure this",
       "The nearest is '" + nearest_name(metric.key, known) + "'");
}

constexpr std::array kRunParams{
    ParamSpec{"recipe", ParamType::kFile, "", "the YAML file", true, true},
    ParamSpec{"set", ParamType::kList, "", "NAME=VALUE of a variable of the recipe"},
    ParamSpec{"dry-run", ParamType::kFlag, "", "print the plan and stop"},
    ParamSpec{"overwrite", ParamType::kFlag, "", "redo everything, also in a directory that no recipe made"},
    ParamSpec{"device", ParamType::kText, "", "cpu, cuda or cuda:N; without it what the recipe says, or cpu"},
    ParamSpec{.name = "threads",
              .type = ParamType::kInteger,
              .fallback = "",
              .help = "number of threads; without it what the recipe says, or all cores",
              .minimum = 1,
              .maximum = 1024},
    ParamSpec{"seed", ParamType::kInteger, "", "of everything random; without it what the recipe says, or 0"},
};

std::map<std::string, std::string> settings_of(const Params& params) {
  std::map<std::string, std::string> settings;
  for (const std::string& text : params.list("set")) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos)
      fail_usage("run", "--set", "'" + text + "' is no setting", "Write it as NAME=VALUE");
    settings[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return settings;
}

OperationResult dry_run(const Recipe& recipe, const fs::path& directory, const Context& context) {
  const bool is_new = !fs::exists(directory);
  std::string plan;
  {
    StageCache cache(directory, false);
    plan = recipe_plan(recipe, cache, context);
  }
  if (is_new) fs::remove_all(directory);
  return {{{"recipe", recipe.path.string()}, {"plan", plan}}, true, plan};
}

}  // namespace

bool RecipeOutcome::as_asked() const {
  return std::all_of(stages.begin(), stages.end(), [](const StageOutcome& s) { return s.record.as_asked; }) &&
         std::all_of(gates.begin(), gates.end(), [](const GateOutcome& g) { return g.result.passed; });
}

std::string recipe_plan(const Recipe& recipe, StageCache& cache, const Context& context) {
  Results results;
  std::string plan;
  for (const Stage& stage : recipe.stages) {
    const std::optional<std::string> key = key_of(stage, results, cache, context);
    const std::optional<StageRecord> record = key ? cache.find(stage, *key) : std::nullopt;
    if (record) results[stage.name] = record->digest;
    plan += fmt::format("{}  {:<20} {:<10} {}", plan.empty() ? "" : "\n", stage.name, stage.operation->name,
                        record ? "cached" : "to run");
  }
  return plan;
}

RecipeOutcome run_recipe(const Recipe& recipe, StageCache& cache, Context& context) {
  const auto started = std::chrono::steady_clock::now();
  RecipeOutcome outcome;
  Results results;
  for (const Stage& stage : recipe.stages) {
    context.check_interrupted();
    const std::string place = fmt::format("[{}/{}]", outcome.stages.size() + 1, recipe.stages.size());
    const std::string key = *key_of(stage, results, cache, context);
    outcome.stages.push_back(run_stage(recipe, stage, key, place, cache, context));
    results[stage.name] = outcome.stages.back().record.digest;
    cache.digests().save();
  }
  for (const Gate& gate : recipe.gates)
    outcome.gates.push_back({gate, evaluate_gate(gate, [&](const Metric& m) { return measured(outcome, m); })});
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return outcome;
}

std::span<const ParamSpec> run_params() { return kRunParams; }

OperationResult run_command(std::span<const Operation> table, const Params& params, const fs::path& output,
                            Context& context) {
  const Recipe recipe = read_recipe(params.path("recipe"), table, settings_of(params));
  std::optional<ThreadPool> pool;
  if (recipe.threads && !params.has("threads")) pool.emplace(static_cast<int>(*recipe.threads));
  Context own{pool ? *pool : context.threads, context.progress, context.memory_limit};
  own.seed = params.has("seed") ? static_cast<uint64_t>(params.integer("seed")) : recipe.seed.value_or(0);
  own.device = params.has("device") ? params.text("device") : recipe.device.value_or("cpu");
  const fs::path directory = output.empty() ? fs::path(recipe.path.stem().string() + "-out") : output;
  if (params.flag("dry-run")) return dry_run(recipe, directory, own);
  StageCache cache(directory, params.flag("overwrite"));
  const std::string plan = recipe_plan(recipe, cache, own);
  own.progress.message(directory.string() + ":\n" + plan);
  const RecipeOutcome outcome = run_recipe(recipe, cache, own);
  OperationResult result{report_json(recipe, outcome, own), outcome.as_asked(), report_table(outcome)};
  const fs::path report = directory / "report.json";
  write_text_file(report, result.json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  result.text += "\n" + report.string();
  return result;
}

}  // namespace retort
