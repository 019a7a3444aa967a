// A recipe: stages that name an operation, its parameters and earlier stages, and gates on what they measured.
//
//   seed: 0                              # also: threads, device
//   variables: {teacher: my/teacher}     # ${teacher} below; `--set teacher=PATH` replaces it
//   stages:
//     student: {operation: prune, model: "${teacher}", layers: 4}
//     scored: {operation: eval, model: student, reference: "${teacher}", text: held-out.txt}
//   gates:
//     - scored.kl_mean < 0.05
//
// A model or file parameter is the name of a stage or a path relative to the recipe. Everything wrong is a usage Error
// that names the file, the line and the nearest valid name.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/gate.h"
#include "recipes/operation.h"

namespace retort {

struct StageInput {
  std::string param;
  std::string stage;           // the earlier stage, or empty:
  std::filesystem::path path;  // the file or directory
};

struct Stage {
  std::string name;
  const Operation* operation = nullptr;
  Json params;  // checked; the values of `inputs` are still names
  std::vector<StageInput> inputs;

  bool has_output() const { return operation->output != OutputKind::kNone; }
  Params checked(Json values) const { return {operation->params, std::move(values)}; }
};

struct Recipe {
  std::filesystem::path path;
  std::optional<int64_t> threads;
  std::optional<uint64_t> seed;
  std::optional<std::string> device;
  std::vector<Stage> stages;  // each after the stages that it names, otherwise in the order of the file
  std::vector<Gate> gates;
};

// `settings` replace the recipe's variables; a path among them is relative to the current directory. `text` is the
// content of the file `path`, for the second form.
Recipe read_recipe(const std::filesystem::path& path, std::span<const Operation> table,
                   const std::map<std::string, std::string>& settings);
Recipe parse_recipe(const std::string& text, const std::filesystem::path& path, std::span<const Operation> table,
                    const std::map<std::string, std::string>& settings);

}  // namespace retort
