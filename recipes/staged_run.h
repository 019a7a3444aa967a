// Running one operation into a staged output, the same way for a command and for a stage of a recipe.
#pragma once

#include <filesystem>

#include "core/base/files.h"
#include "recipes/operation.h"

namespace retort {

// Runs `operation` into `path`, which is the staging path of `output` or lies in it. When a resumable operation is
// interrupted or fails, what it left is kept, so that the same command continues. The caller commits.
OperationResult run_into(const Operation& operation, const Params& params, StagedOutput& output,
                         const std::filesystem::path& path, Context& context);

}  // namespace retort
