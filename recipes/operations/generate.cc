#include "core/base/error.h"
#include "core/base/files.h"
#include "recipes/operations/rows.h"
#include "runtime/text_generator.h"

namespace retort {
namespace {

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "Hugging Face directory, native quantized directory or GGUF file", true, true},
    {"prompt", ParamType::kText, "", "the text to continue"},
    {"prompt-file", ParamType::kFile, "", "a file that holds it"},
    {"max-new-tokens", ParamType::kInteger, "128", "at most this many tokens", false, false, "", 0, 1 << 24},
    {"temperature", ParamType::kNumber, "0", "0: always the likeliest token"},
    {"top-k", ParamType::kInteger, "0", "sample from the likeliest tokens only; 0: from all"},
    {"top-p", ParamType::kNumber, "1", "sample from the likeliest tokens that hold this share of the probability"},
    {"stop", ParamType::kList, "", "end before this text"},
    {"kernel", ParamType::kText, "", "force a kernel of `retort bench --list-kernels`"},
};

std::string read_prompt(const Params& params) {
  if (params.has("prompt") == params.has("prompt-file"))
    fail_usage("generate", "--prompt", "one of --prompt and --prompt-file is needed, and not both");
  return params.has("prompt") ? params.text("prompt") : read_text_file(params.path("prompt-file"));
}

OperationResult run(const Params& params, const std::filesystem::path&, Context& context) {
  const std::string prompt = read_prompt(params);
  const GenerationOptions options{.max_new_tokens = params.integer("max-new-tokens"),
                                  .sampling = {.temperature = params.number("temperature"),
                                               .top_k = params.integer("top-k"),
                                               .top_p = params.number("top-p"),
                                               .seed = context.seed},
                                  .stops = params.list("stop")};
  const Sampler checked(options.sampling);  // refuses bad options before the weights are read
  const auto source = open_model(params.path("model"));
  const auto engine = load_engine(*source, {.kernel = params.has("kernel") ? params.text("kernel") : ""}, context);
  const Generation result = generate_text(*source, *engine, prompt, options, context);
  Json json = {{"model", params.path("model").string()},
               {"text", result.text},
               {"ids", result.ids},
               {"prompt_tokens", result.prompt_tokens},
               {"new_tokens", result.ids.size()},
               {"stopped_by", result.stopped_by},
               {"kernel", engine->kernel()}};
  return {.json = std::move(json), .as_asked = true, .text = result.text};
}

}  // namespace

extern const Operation kGenerateOperation = {
    .name = "generate",
    .version = 1,
    .summary = "Continue a text with the built-in backend",
    .params = kParams,
    .output = OutputKind::kNone,
    .stage = true,
    .resumable = false,
    .run = run,
};

}  // namespace retort
