// The program around a table of operations: command line in, exit code out.
#pragma once

#include <span>

#include "recipes/operation.h"

namespace retort {

enum ExitCode : int { kDone = 0, kFailed = 1, kWrongUsage = 2, kNotAsAsked = 3, kInterrupted = 130 };

// Runs the command named by `argv`. `version` is what `--version` prints. Never throws.
int run_program(std::span<const Operation> table, const char* version, int argc, char** argv);

}  // namespace retort
