#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "export/verifier.h"
#include "recipes/operations/rows.h"
#include "runtime/engine.h"

namespace retort {
namespace {

constexpr std::array kParams{
    ParamSpec{"artifact", ParamType::kModel, {}, "GGUF file, or directory that `retort export` wrote", true, true},
    ParamSpec{"against", ParamType::kModel, {}, "model that the artifact was made from", true},
};

constexpr int64_t kProbeTokens = 32;
constexpr uint64_t kDefaultLimit = uint64_t{8} << 30;  // bytes that the logits check may use without --memory
// Rounding the weights to 16 bit moves logits by less; a wrong rope base or a permuted head by much more.
constexpr double kLogitsTolerance = 0.05;  // of the largest logit

std::vector<float> probe_logits(const ModelSource& source, int64_t count, Context& context) {
  const int64_t vocab = source.config().vocab_size;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + 1) % vocab));
  EngineOptions options;
  options.float_math = true;
  const auto engine = load_engine(source, options, context);
  const auto session = engine->new_session(count);
  std::vector<float> logits(static_cast<size_t>(count * vocab));
  engine->forward(*session, ids, count, logits);
  return logits;
}

struct LogitsCheck {
  std::optional<double> max_difference;
  std::string note;  // why there is none
  bool close = true;
};

// Both models in float math, one after the other.
LogitsCheck compare_logits(const std::filesystem::path& artifact, std::string_view format, const ModelSource& model,
                           Context& context) {
  if (format == "onnx" || format == "mlx")
    return {{}, "the built-in backend does not read " + std::string(format), true};
  const uint64_t limit = context.memory_limit != 0 ? context.memory_limit : kDefaultLimit;
  const auto needed = static_cast<uint64_t>(model.config().parameters()) * sizeof(float);
  if (needed > limit)
    return {{}, "comparing logits takes " + format_bytes(needed) + " of memory; --memory allows it", true};
  const auto stored = open_model(artifact);
  const int64_t count = std::min({kProbeTokens, model.config().context_length, stored->config().context_length});
  const std::vector<float> expected = probe_logits(model, count, context),
                           found = probe_logits(*stored, count, context);
  if (expected.size() != found.size()) return {{}, "its vocabulary has another size", false};
  double difference = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double here = std::abs(static_cast<double>(expected[i]) - found[i]);
    if (!std::isfinite(here)) return {here, {}, false};
    difference = std::max(difference, here);
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return {difference, {}, difference <= kLogitsTolerance * largest};
}

Json to_json(const VerifyResult& result, const LogitsCheck& logits) {
  Json json{{"format", result.format},
            {"tensors_compared", result.tensors_compared},
            {"tensors_as_integers", result.tensors_as_integers},
            {"codes_different", result.codes_different},
            {"scales_different", result.scales_different},
            {"values_different", result.values_different},
            {"numbers_different", result.numbers_different},
            {"tokenizer_equal", result.tokenizer_equal},
            {"template_equal", result.template_equal},
            {"logits_max_difference", nullptr},
            {"differences", result.differences},
            {"notes", result.notes}};
  if (logits.max_difference) json["logits_max_difference"] = *logits.max_difference;
  if (!logits.note.empty()) json["logits_note"] = logits.note;
  return json;
}

std::string to_text(const VerifyResult& result, const LogitsCheck& logits, bool same) {
  std::string text = result.format + ": " + std::to_string(result.tensors_compared) + " tensors compared, " +
                     std::to_string(result.codes_different) + " codes, " + std::to_string(result.scales_different) +
                     " scales and " + std::to_string(result.values_different) + " dense values differ, and " +
                     std::to_string(result.numbers_different) + " numbers of the configuration; tokenizer " +
                     (result.tokenizer_equal ? "equal" : "DIFFERENT") + ", chat template " +
                     (result.template_equal ? "equal" : "DIFFERENT");
  if (logits.max_difference) text += "; largest difference of a logit " + std::to_string(*logits.max_difference);
  for (const std::string& difference : result.differences) text += "\n" + difference;
  if (!logits.note.empty()) text += "\nlogits not compared: " + logits.note;
  for (const std::string& note : result.notes) text += "\nnote: " + note;
  return text + (same ? "" : "\nThe artifact does not hold what the model holds");
}

OperationResult run_verify(const Params& params, const std::filesystem::path&, Context& context) {
  const auto model = open_model(params.path("against"));
  const VerifyResult result = verify_artifact(params.path("artifact"), *model, context);
  const LogitsCheck logits = compare_logits(params.path("artifact"), result.format, *model, context);
  const bool same = result.equal() && logits.close;
  return {to_json(result, logits), same, to_text(result, logits, same)};
}

}  // namespace

const Operation kVerifyOperation{
    .name = "verify",
    .version = 2,
    .summary = "prove that an artifact holds the codes, scales, tokenizer and template of its model",
    .params = kParams,
    .output = OutputKind::kNone,
    .stage = true,
    .resumable = false,
    .run = run_verify};

}  // namespace retort
