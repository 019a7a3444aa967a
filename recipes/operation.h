// Every command is one row: its name, version, parameters and function. cli/ makes the options of the command
// line from it, the recipe runner checks and runs stages by it. To add a command: one file in recipes/operations,
// one row in recipes/operations.cc.
#pragma once

#include <filesystem>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/context.h"
#include "core/base/json.h"

namespace retort {

enum class ParamType {
  kText,
  kInteger,
  kNumber,
  kSize,  // "8GiB"
  kFlag,
  kList,   // of texts; repeatable on the command line
  kModel,  // path of a model; in a recipe, possibly the name of an earlier stage. Its content enters the key
  kFile,   // path of another input; likewise
};

struct ParamSpec {
  std::string_view name;  // "sequence-length"; the option is --sequence-length
  ParamType type;
  std::string_view fallback;  // default as text; empty: none
  std::string_view help;      // with units
  bool required = false;
  bool positional = false;        // MODEL, ARTIFACT, RECIPE
  std::string_view choices = {};  // "none|activation": the only values; empty: any
  double minimum = 0;             // of kInteger and kNumber, inclusive
  double maximum = std::numeric_limits<double>::infinity();
  // Names a file that is written beside the output. Not in a recipe: a stage whose result is kept writes nothing.
  bool writes_beside = false;
};

// Checked values by name. A getter for a name that is not in the operation's table, of another type, or without a
// value (see has) is our own bug and throws std::logic_error.
class Params {
 public:
  Params(std::span<const ParamSpec> specs, Json values) : specs_(specs), values_(std::move(values)) {}
  bool has(std::string_view name) const;  // given, or has a default
  std::string text(std::string_view name) const;
  int64_t integer(std::string_view name) const;  // kInteger and kSize (bytes)
  double number(std::string_view name) const;
  bool flag(std::string_view name) const;
  std::vector<std::string> list(std::string_view name) const;
  std::filesystem::path path(std::string_view name) const;
  const Json& json() const { return values_; }  // defaults filled in, canonical types

 private:
  std::span<const ParamSpec> specs_;
  Json values_;
};

// How an error names a parameter: "--steps" on the command line, "quickstart.yaml:14: steps" in a recipe.
using ParamLabel = std::function<std::string(std::string_view name)>;

// Values are texts as they were typed, or JSON of the right type. Unknown names, missing required ones and values of
// the wrong type or range are usage Errors of `operation` that name the parameter and the nearest valid name.
Params check_params(std::span<const ParamSpec> specs, const Json& values, std::string_view operation,
                    const ParamLabel& label = {});

enum class OutputKind {
  kNone,  // nothing; --output then takes the JSON object
  kFile,
  kDirectory,
  kByFormat,   // export's PATH: a file when `format` is "gguf" and nothing lies beside the model, else a directory
  kWorkspace,  // a directory that is never staged: an existing one is continued. Empty: the command chooses a name
};

struct OperationResult {
  Json json;             // what --json prints; for recipes, the metrics that gates can name
  bool as_asked = true;  // false: exit code 3
  std::string text;      // what a person reads: aligned lines, or a result such as generated text; one final
                         // newline is added when it is printed
};

struct Operation {
  std::string_view name;
  int version;  // raised when the same parameters and inputs give other bytes
  std::string_view summary;
  std::span<const ParamSpec> params;
  OutputKind output;
  bool stage;      // may stand in a recipe
  bool resumable;  // an interrupted run leaves its state in `output`, and the next one finds it there
  // `output` is the staged path to write to (empty for kNone; a directory exists); the caller commits it.
  OperationResult (*run)(const Params& params, const std::filesystem::path& output, Context& context);
  // Why a parameter has no say beside the others, as a sentence; empty: it has. One that was given then is refused.
  std::string (*unheeded)(const Params& params, std::string_view name) = nullptr;
  bool on_device = false;                               // it computes where --device says; the others only on the CPU
  bool (*needs_torch)(const Params& params) = nullptr;  // it computes with LibTorch; nullptr: it never does
};

// As for a table of parameters, and refuses what was given in vain.
Params check_params(const Operation& operation, const Json& values, std::string_view reader,
                    const ParamLabel& label = {});

bool is_device(std::string_view text);  // "cpu", "cuda" or "cuda:N"

// Of kByFormat: the option that asks for files beside a GGUF model or for several, and so for a directory; empty: none.
std::string_view option_of_directory(const Params& params);
// Whether the output is a directory; called for kFile, kDirectory and kByFormat.
bool writes_directory(const Operation& operation, const Params& params);

std::span<const Operation> operations();                                                   // the table in operations.cc
const Operation* find_operation(std::span<const Operation> table, std::string_view name);  // nullptr: not there

}  // namespace retort
