#include "core/checkpoint/inspection.h"

#include <algorithm>
#include <cctype>
#include <functional>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/shard_set.h"
#include "core/checkpoint/sources.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

void add_problem(std::vector<std::string>& problems, const std::string& problem) {
  if (std::ranges::find(problems, problem) == problems.end()) problems.push_back(problem);
}

// Runs `body`; an Error becomes a problem.
void attempt(std::vector<std::string>& problems, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    add_problem(problems, e.what());
  }
}

void inspect_opened(Inspection& found) {
  const ModelSource& model = *found.model;
  found.container = model.container();
  found.config = model.config();
  found.family = model.config().family->model_type;
  found.quantization = model.config().json.value("quantization_config", Json());
  found.problems.insert(found.problems.end(), model.problems().begin(), model.problems().end());
  for (const ModelTensor& tensor : model.tensors())
    found.tensors.push_back(
        {tensor.name, tensor.shape, tensor.stored.empty() ? name_of(tensor.scheme) : tensor.stored, tensor.bytes});
}

// Every file by itself, since one of them keeps the model from being opened.
void inspect_weight_files(const fs::path& directory, Inspection& found) {
  std::vector<std::string> names;
  attempt(found.problems, [&] { names = weight_file_names(directory); });
  for (const std::string& name : names)
    attempt(found.problems, [&] {
      const SafetensorsFile file(directory / name);
      for (const TensorInfo& info : file.tensors())
        found.tensors.push_back({info.name, info.shape, std::string(name_of(info.dtype)), info.bytes});
    });
}

bool is_foreign(const Json& quantization) {
  return quantization.is_object() &&
         json_value<std::string>(quantization, "quant_method", "", "config.json") != "retort";
}

// All tensors that are missing or have another shape, where open_model names the first.
void compare_with_config(Inspection& found) {
  if (!found.config || found.tensors.empty() || !found.quantization.is_null()) return;
  for (const ExpectedTensor& expected : expected_tensors(*found.config)) {
    const auto stored = std::ranges::find(found.tensors, expected.name, &InspectedTensor::name);
    if (stored == found.tensors.end())
      found.problems.push_back("the tensor '" + expected.name + "' is missing");
    else if (stored->shape != expected.shape)
      found.problems.push_back("the tensor '" + expected.name + "' has the shape " + Json(stored->shape).dump() +
                               "; config.json asks for " + Json(expected.shape).dump());
  }
}

void inspect_directory(const fs::path& directory, Inspection& found) {
  found.container = "huggingface";
  const std::string label = (directory / "config.json").string();
  Json config;
  attempt(found.problems, [&] {
    config = read_json_file(label);
    if (!config.is_object()) fail("config", label, "not a JSON object");
    found.family = json_value<std::string>(config, "model_type", "", label);
    found.quantization = config.value("quantization_config", Json());
    if (!is_foreign(found.quantization) && found.quantization.is_object()) found.container = "native";
    found.config = parse_config(config, label);
  });
  inspect_weight_files(directory, found);
  compare_with_config(found);
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

void inspect_gguf(const fs::path& path, Inspection& found) {
  found.container = "gguf";
  const GgufFile file(path);
  attempt(found.problems, [&] { found.family = file.header().string("general.architecture").value_or(""); });
  for (const GgufTensorInfo& info : file.header().tensors)
    found.tensors.push_back({info.name, info.shape, lower(find_ggml_type(info.type)->name), info.bytes});
}

void check_special_tokens(Inspection& found) {
  const ModelConfig& config = *found.config;
  std::vector<int64_t> ids = config.eos_ids;
  if (config.bos_id) ids.push_back(*config.bos_id);
  for (const int64_t id : ids)
    if (id < 0 || id >= config.vocab_size)
      found.problems.push_back("the special token " + std::to_string(id) + " lies outside the vocabulary of " +
                               std::to_string(config.vocab_size));
}

}  // namespace

Inspection inspect_model(const fs::path& path) {
  Inspection found;
  try {
    found.model = open_model(path);
    inspect_opened(found);
  } catch (const Error& refusal) {
    if (fs::exists(path / "config.json"))
      inspect_directory(path, found);
    else if (is_gguf(path))
      inspect_gguf(path, found);
    else
      throw;
    add_problem(found.problems, refusal.what());
  }
  if (found.config) check_special_tokens(found);
  return found;
}

}  // namespace retort
