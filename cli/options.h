// The options of a command, made from its row in the table of operations: parsing, checking and `--help`.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "recipes/operation.h"

namespace retort {

// Options that every command has. A command that lists one of these names in its own table gets its value too.
std::span<const ParamSpec> shared_params();

struct CommandLine {
  const Operation* operation = nullptr;
  Params params{{}, Json::object()};  // of the operation
  Params shared{{}, Json::object()};  // of shared_params()
  bool help = false;                  // nothing else is checked then
};

// `arguments` begin with the command. Everything wrong is a usage Error that names the option and the nearest one.
CommandLine parse_command_line(std::span<const Operation> table, const std::vector<std::string>& arguments);

std::string program_help(std::span<const Operation> table);
std::string command_help(const Operation& operation);

}  // namespace retort
