#include "prune/prune.h"

#include <ATen/core/Tensor.h>

#include <chrono>
#include <string>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "model/calibration.h"
#include "model/editable.h"
#include "prune/importance.h"
#include "prune/slice.h"

namespace retort {
namespace {

void check_size(const char* option, int64_t keep, int64_t have) {
  if (keep < 0 || keep > have)
    fail_usage("prune", option,
               std::to_string(keep) + " is not within 1 to " + std::to_string(have) + ", what the model has");
}

// "512 or 640, or ": the multiples below and above `value` that the model can be cut to.
std::string multiples_around(int64_t value, int64_t multiple, int64_t have) {
  const int64_t below = value / multiple * multiple, above = below + multiple;
  std::string text = below > 0 ? std::to_string(below) : "";
  if (above <= have) text += (text.empty() ? "" : " or ") + std::to_string(above);
  return text.empty() ? text : text + ", or ";
}

void check_options(const ModelConfig& config, const PruneOptions& options) {
  if (options.layers == 0 && options.ffn == 0)
    fail_usage("prune", "--layers, --ffn", "there is nothing to prune", "Give at least one size to keep");
  check_size("--layers", options.layers, config.layers);
  check_size("--ffn", options.ffn, config.ffn_size);
  const int64_t multiple = options.ffn_multiple;
  if (multiple < 1) fail_usage("prune", "--ffn-multiple", "at least 1 is needed");
  if (options.ffn % multiple != 0 && options.ffn != config.ffn_size)
    fail_usage("prune", "--ffn", std::to_string(options.ffn) + " is not a multiple of " + std::to_string(multiple),
               "Give " + multiples_around(options.ffn, multiple, config.ffn_size) + "another --ffn-multiple");
}

Kept choose(const ModelConfig& config, const PruneOptions& options, const Importance& importance) {
  Kept kept{most_important(importance.layers, options.layers > 0 ? options.layers : config.layers), {}};
  if (options.ffn > 0 && options.ffn < config.ffn_size)
    for (const int64_t layer : kept.layers)
      kept.channels.push_back(most_important(importance.channels[static_cast<size_t>(layer)], options.ffn));
  return kept;
}

// What of the summary is the same in every run of the same inputs.
Json lasting_report(const PruneSummary& summary, const ModelSource& source, const PruneOptions& options) {
  Json report{{"operation", "prune"}};
  report.update(to_json(summary));
  report.erase("seconds");
  report["inputs"] = {{"model", digest_of_path(source.path())}, {"calibration", digest_of_path(options.calibration)}};
  return report;
}

}  // namespace

PruneSummary prune_model(const ModelSource& source, const std::filesystem::path& directory, const PruneOptions& options,
                         Context& context) {
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig& config = source.config();
  check_options(config, options);
  require_editable(source, "prune");
  const at::Tensor windows =
      calibration_windows(source, options.calibration, options.samples, options.sequence_length, "prune");
  const Importance importance = measure_importance(source, windows, context);
  const Kept kept = choose(config, options, importance);
  const Json json = pruned_config(config, kept);

  PruneSummary summary;
  summary.layer_scores = importance.layers;
  summary.kept_layers = kept.layers;
  summary.kept_channels = kept.channels;
  summary.ffn_before = config.ffn_size;
  summary.ffn_after = kept.channels.empty() ? config.ffn_size : options.ffn;
  summary.calibration_tokens = windows.numel();
  summary.parameters_before = config.parameters();
  summary.parameters_after = parse_config(json, source.path().string()).parameters();

  ModelWriter writer(directory, source.side_files());
  write_kept(source, kept, writer);
  writer.finish(json, lasting_report(summary, source, options));
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return summary;
}

}  // namespace retort
