#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <ranges>

#include "core/base/error.h"
#include "export/verifier.h"
#include "export/verify/plain_logits.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr std::array kParams{
    ParamSpec{"artifact", ParamType::kModel, {}, "GGUF file, or directory that `retort export` wrote", true, true},
    ParamSpec{"against", ParamType::kModel, {}, "model that the artifact was made from", true},
};

constexpr int64_t kProbeTokens = 8;
constexpr size_t kRoundedLines = 5;  // of the text; all are in the JSON
// Of the largest logit. Where the weights are the same numbers, only the order of additions differs. Rounding the
// weights to 16 bit moves logits by less than the other bound; a wrong rope base or a permuted head by much more.
constexpr double kSameNumbers = 1e-3, kRoundedNumbers = 0.05;

std::vector<int32_t> probe_tokens(const ModelConfig& config) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < std::min(kProbeTokens, config.context_length); ++i)
    ids.push_back(static_cast<int32_t>((i * 7919 + 1) % config.vocab_size));
  return ids;
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

// Both models on the same tokens, one after the other.
LogitsCheck compare_logits(const std::filesystem::path& artifact, const VerifyResult& result, const ModelSource& model,
                           Context& context) {
  const double tolerance = result.values_rounded == 0 ? kSameNumbers : kRoundedNumbers;
  const std::vector<int32_t> ids = probe_tokens(model.config());
  const std::vector<float> expected = plain_logits(model, ids, context);
  return compare(expected, artifact_logits(artifact, model.config(), ids, context), tolerance);
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
            {"fallbacks_recorded", result.fallbacks_recorded},
            {"numbers_different", result.numbers_different},
            {"settings_different", result.settings_different},
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
                     std::to_string(result.numbers_different) + " numbers of the configuration and " +
                     std::to_string(result.settings_different) + " other settings; " +
                     std::to_string(result.values_rounded) + " values rounded; tokenizer " +
                     (result.tokenizer_equal ? "equal" : "DIFFERENT") + ", chat template " +
                     (result.template_equal ? "equal" : "DIFFERENT");
  if (logits.max_difference) text += "; largest difference of a logit " + std::to_string(*logits.max_difference);
  for (const std::string& difference : result.differences) text += "\n" + difference;
  for (const std::string& rounded : result.rounded | std::views::take(kRoundedLines)) text += "\nrounded: " + rounded;
  if (result.rounded.size() > kRoundedLines)
    text += "\nrounded: values of " + std::to_string(result.rounded.size() - kRoundedLines) + " more tensors";
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
    .version = 5,
    .summary = "prove that an artifact holds the codes, scales, tokenizer and template of its model",
    .params = kParams,
    .output = OutputKind::kNone,
    .stage = true,
    .resumable = false,
    .run = run_verify};

}  // namespace retort
