#include "prune/prune.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/base/error.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr double kMostSize = 1 << 24;

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "Hugging Face directory with float weights", true, true},
    {"layers", ParamType::kInteger, "", "layers to keep", false, false, "", 1, kMostSize},
    {"ffn", ParamType::kInteger, "", "FFN channels to keep in every layer", false, false, "", 1, kMostSize},
    {"ffn-multiple", ParamType::kInteger, "128", "refuse an --ffn that is not a multiple of this", false, false, "", 1,
     kMostSize},
    {"heads", ParamType::kInteger, "", "attention heads to keep; not available yet", false, false, "", 1, kMostSize},
    {"kv-heads", ParamType::kInteger, "", "key/value heads to keep; not available yet", false, false, "", 1, kMostSize},
    {"hidden", ParamType::kInteger, "", "hidden size to keep; not available yet", false, false, "", 1, kMostSize},
    {"calibration", ParamType::kFile, "", "text on which layers and channels are scored", true},
    {"samples", ParamType::kInteger, "128", "windows of it that are used", false, false, "", 1, kMostSize},
    {"sequence-length", ParamType::kInteger, "0",
     "tokens in a window; 0: 512, or the model's context length if shorter", false, false, "", 0, kMostSize},
};

std::string describe(const PruneSummary& s) {
  return fmt::format(
      "parameters  {} -> {}\nlayers      {} -> {}, kept {}\nFFN         {} -> {}\nscores      {:.4f}\n"
      "calibrated  on {} tokens, {:.1f} s",
      s.parameters_before, s.parameters_after, s.layer_scores.size(), s.kept_layers.size(),
      fmt::join(s.kept_layers, " "), s.ffn_before, s.ffn_after, fmt::join(s.layer_scores, " "), s.calibration_tokens,
      s.seconds);
}

OperationResult run(const Params& params, const std::filesystem::path& output, Context& context) {
  for (const char* later : {"heads", "kv-heads", "hidden"})
    if (params.has(later))
      fail_usage("prune", std::string("--") + later, "pruning this dimension is not available yet",
                 "Available are --layers and --ffn");
  const auto source = open_model(params.path("model"));
  const PruneSummary summary = prune_model(*source, output,
                                           {.layers = params.has("layers") ? params.integer("layers") : 0,
                                            .ffn = params.has("ffn") ? params.integer("ffn") : 0,
                                            .ffn_multiple = params.integer("ffn-multiple"),
                                            .calibration = params.text("calibration"),
                                            .samples = params.integer("samples"),
                                            .sequence_length = params.integer("sequence-length")},
                                           context);
  return {.json = to_json(summary), .as_asked = true, .text = describe(summary)};
}

}  // namespace

const Operation kPruneOperation{.name = "prune",
                                .version = 2,
                                .summary = "Remove layers and FFN channels that matter least on a text",
                                .params = kParams,
                                .output = OutputKind::kDirectory,
                                .stage = true,
                                .resumable = false,
                                .run = run,
                                .on_device = true,
                                .needs_torch = [](const Params&) { return true; }};

}  // namespace retort
