#include "recipes/staged_run.h"

namespace fs = std::filesystem;

namespace retort {

OperationResult run_into(const Operation& operation, const Params& params, StagedOutput& output, const fs::path& path,
                         Context& context) {
  try {
    return operation.run(params, path, context);
  } catch (...) {
    std::error_code ignored;
    if (operation.resumable && fs::exists(path, ignored) && !fs::is_empty(path, ignored)) output.keep();
    throw;
  }
}

}  // namespace retort
