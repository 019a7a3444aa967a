#include "recipes/operations/rows.h"
#include "recipes/runner.h"

namespace retort {
namespace {

OperationResult run(const Params& params, const std::filesystem::path& output, Context& context) {
  return run_command(operations(), params, output, context);
}

}  // namespace

extern const Operation kRunOperation = {"run",
                                        1,
                                        "Run a recipe: a chain of the other commands from one YAML file.",
                                        run_params(),
                                        OutputKind::kWorkspace,
                                        false,
                                        false,
                                        run,
                                        nullptr,
                                        /*on_device=*/true,
                                        [](const Params&) { return true; }};

}  // namespace retort
