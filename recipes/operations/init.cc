#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/checkpoint/random_model.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr ParamSpec kParams[] = {
    {"config", ParamType::kFile, "", "config.json of the model to make", true},
    {"tokenizer", ParamType::kFile, "", "directory whose tokenizer and chat template are copied"},
    {"type", ParamType::kText, "bf16", "type of the weights", false, false, "f32|f16|bf16"},
};

// Tokenizer and template; how the other model ends its texts is not ours to take over.
std::vector<SideFile> tokenizer_files(const Params& params) {
  if (!params.has("tokenizer")) return {};
  const std::filesystem::path directory = params.path("tokenizer");
  std::vector<SideFile> files = read_side_files(directory);
  std::erase_if(files, [](const SideFile& file) { return file.name == "generation_config.json"; });
  if (files.empty()) fail("init", directory.string(), "there are no tokenizer files in it");
  return files;
}

OperationResult run(const Params& params, const std::filesystem::path& output, Context& context) {
  const std::filesystem::path path = params.path("config");
  const ModelConfig config = parse_config(read_json_file(path), path.string());
  const DType type = *parse_dtype(params.text("type"));
  write_random_model(config, type, tokenizer_files(params), output, context);
  const auto bytes = static_cast<uint64_t>(config.parameters()) * size_of(type);
  const Json json = {{"family", config.family->model_type},
                     {"parameters", config.parameters()},
                     {"type", name_of(type)},
                     {"bytes", bytes},
                     {"seed", context.seed}};
  return {.json = json,
          .as_asked = true,
          .text = fmt::format("{} parameters in {}, {}", config.parameters(), name_of(type), format_bytes(bytes))};
}

}  // namespace

extern const Operation kInitOperation = {
    .name = "init",
    .version = 1,
    .summary = "Random weights for a configuration",
    .params = kParams,
    .output = OutputKind::kDirectory,
    .stage = true,
    .resumable = false,
    .run = run,
};

}  // namespace retort
