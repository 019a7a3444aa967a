// Runs a recipe: only the stages whose operation, parameters or inputs changed since they last ran.
#pragma once

#include <filesystem>
#include <span>

#include "recipes/recipe.h"
#include "recipes/stage_cache.h"

namespace retort {

struct StageOutcome {
  const Stage* stage = nullptr;
  bool cached = false;
  StageRecord record;
  std::filesystem::path output;  // under its readable name; empty without one
};

struct GateOutcome {
  Gate gate;
  GateResult result;
};

struct RecipeOutcome {
  std::vector<StageOutcome> stages;
  std::vector<GateOutcome> gates;
  double seconds = 0;
  bool as_asked() const;  // every stage, and every gate passed
};

// Runs what is not up to date in `directory`, says so in messages, and leaves report.json there.
// A stage that fails ends the run with its Error; what was done before is kept.
RecipeOutcome run_recipe(const Recipe& recipe, StageCache& cache, Context& context);

// One line per stage: "  student   distill   cached". Stages behind one that will run count as to run.
std::string recipe_plan(const Recipe& recipe, StageCache& cache, const Context& context);

Json report_json(const Recipe& recipe, const RecipeOutcome& outcome, const Context& context);
std::string report_table(const RecipeOutcome& outcome);

// The command `retort run` over a table of operations.
std::span<const ParamSpec> run_params();
OperationResult run_command(std::span<const Operation> table, const Params& params, const std::filesystem::path& output,
                            Context& context);

}  // namespace retort
