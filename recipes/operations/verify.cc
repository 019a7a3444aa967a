#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "export/verifier.h"
#include "export/verify/onnx_evaluation.h"
#include "recipes/operations/rows.h"
#include "runtime/engine.h"

namespace retort {
namespace {

constexpr std::array kParams{
    ParamSpec{"artifact", ParamType::kModel, {}, "GGUF file, or directory that `retort export` wrote", true, true},
    ParamSpec{"against", ParamType::kModel, {}, "model that the artifact was made from", true},
};

constexpr int64_t kProbeTokens = 32, kGraphTokens = 8;
constexpr uint64_t kDefaultLimit = uint64_t{8} << 30;  // bytes that the logits check may use without --memory
// Of the largest logit. Where the weights are the same numbers, only the order of additions differs. Rounding the
// weights to 16 bit moves logits by less than the other bound; a wrong rope base or a permuted head by much more.
constexpr double kSameNumbers = 1e-3, kRoundedNumbers = 0.05;

std::vector<int32_t> probe_tokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + 1) % vocab));
  return ids;
}

std::vector<float> logits_of(const ModelSource& source, std::span<const int32_t> ids, Context& context) {
  EngineOptions options;
  options.float_math = true;
  const auto engine = load_engine(source, options, context);
  const auto count = static_cast<int64_t>(ids.size());
  const auto session = engine->new_session(count);
  std::vector<float> logits(ids.size() * static_cast<size_t>(source.config().vocab_size));
  engine->forward(*session, ids, count, logits);
  return logits;
}

struct LogitsCheck {
  std::optional<double> max_difference;
  std::string note;  // why there is none
  bool close = true;
};

LogitsCheck compare(std::span<const float> expected, std::span<const float> found, double tolerance) {
  if (expected.size() != found.size()) return {{}, "its vocabulary has another size", false};
  double difference = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double here = std::abs(static_cast<double>(expected[i]) - found[i]);
    if (!std::isfinite(here)) return {here, {}, false};
    difference = std::max(difference, here);
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return {difference, {}, difference <= tolerance * largest};
}

// Both models in float math, one after the other; of ONNX the graph itself is run.
LogitsCheck compare_logits(const std::filesystem::path& artifact, const VerifyResult& result, const ModelSource& model,
                           Context& context) {
  if (result.format == "mlx") return {{}, "the built-in backend does not read mlx", true};
  const uint64_t limit = context.memory_limit != 0 ? context.memory_limit : kDefaultLimit;
  const auto needed = static_cast<uint64_t>(model.config().parameters()) * sizeof(float);
  if (needed > limit)
    return {{}, "comparing logits takes " + format_bytes(needed) + " of memory; --memory allows it", true};
  const double tolerance = result.values_rounded == 0 ? kSameNumbers : kRoundedNumbers;
  const ModelConfig& config = model.config();
  if (result.format == "onnx") {
    const auto ids = probe_tokens(std::min(kGraphTokens, config.context_length), config.vocab_size);
    return compare(logits_of(model, ids, context), evaluate_onnx(artifact, config, ids, context), tolerance);
  }
  const auto stored = open_model(artifact);
  const int64_t count = std::min({kProbeTokens, config.context_length, stored->config().context_length});
  const auto ids = probe_tokens(count, config.vocab_size);
  return compare(logits_of(model, ids, context), logits_of(*stored, ids, context), tolerance);
}

Json to_json(const VerifyResult& result, const LogitsCheck& logits) {
  Json json{{"format", result.format},
            {"equal", result.equal() && logits.close},
            {"tensors_compared", result.tensors_compared},
            {"tensors_as_integers", result.tensors_as_integers},
            {"codes_different", result.codes_different},
            {"scales_different", result.scales_different},
            {"values_different", result.values_different},
            {"values_rounded", result.values_rounded},
            {"tensors_rounded", result.tensors_rounded},
            {"numbers_different", result.numbers_different},
            {"bytes_unclaimed", result.bytes_unclaimed},
            {"tokenizer_equal", result.tokenizer_equal},
            {"template_equal", result.template_equal},
            {"logits_max_difference", nullptr},
            {"differences", result.differences},
            {"rounded", result.rounded},
            {"notes", result.notes}};
  if (logits.max_difference) json["logits_max_difference"] = *logits.max_difference;
  if (!logits.note.empty()) json["logits_note"] = logits.note;
  return json;
}

std::string to_text(const VerifyResult& result, const LogitsCheck& logits, bool same) {
  std::string text = result.format + ": " + std::to_string(result.tensors_compared) + " tensors compared, " +
                     std::to_string(result.codes_different) + " codes, " + std::to_string(result.scales_different) +
                     " scales and " + std::to_string(result.values_different) + " dense values differ, and " +
                     std::to_string(result.numbers_different) + " numbers of the configuration; " +
                     std::to_string(result.values_rounded) + " values rounded; tokenizer " +
                     (result.tokenizer_equal ? "equal" : "DIFFERENT") + ", chat template " +
                     (result.template_equal ? "equal" : "DIFFERENT");
  if (logits.max_difference) text += "; largest difference of a logit " + std::to_string(*logits.max_difference);
  for (const std::string& difference : result.differences) text += "\n" + difference;
  for (const std::string& rounded : result.rounded) text += "\nrounded: " + rounded;
  if (!logits.note.empty()) text += "\nlogits not compared: " + logits.note;
  for (const std::string& note : result.notes) text += "\nnote: " + note;
  return text + (same ? "" : "\nThe artifact does not hold what the model holds");
}

OperationResult run_verify(const Params& params, const std::filesystem::path&, Context& context) {
  const auto model = open_model(params.path("against"));
  const VerifyResult result = verify_artifact(params.path("artifact"), *model, context);
  const LogitsCheck logits = compare_logits(params.path("artifact"), result, *model, context);
  const bool same = result.faithful() && !result.fell_back() && logits.close;
  return {to_json(result, logits), same, to_text(result, logits, same)};
}

}  // namespace

const Operation kVerifyOperation{
    .name = "verify",
    .version = 3,
    .summary = "prove that an artifact holds the codes, scales, tokenizer and template of its model",
    .params = kParams,
    .output = OutputKind::kNone,
    .stage = true,
    .resumable = false,
    .run = run_verify};

}  // namespace retort
