// The program around a table of operations: command line in, exit code out.
#pragma once

#include <span>

#include "recipes/operation.h"

namespace retort {

enum ExitCode : int { kDone = 0, kFailed = 1, kWrongUsage = 2, kNotAsAsked = 3, kInterrupted = 130 };

struct Program {
  std::span<const Operation> operations;
  const char* version;  // what --version prints
  // The program beside this one that goes on where a command needs LibTorch, which takes a third of a second and
  // 100 MiB to load; nullptr: this one does all.
  const char* with_torch = nullptr;
};

// Runs the command named by `argv`. Never throws.
int run_program(const Program& program, int argc, char** argv);

}  // namespace retort
