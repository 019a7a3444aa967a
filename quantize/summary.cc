#include <algorithm>

#include "quantize/quantize.h"

namespace retort {
namespace {

Json to_json(const TensorReport& report, Figures figures) {
  Json json{{"name", report.name},
            {"scheme", report.scheme},
            {"method", report.method},
            {"relative_error", report.relative_error},
            {"fallback", report.fallback.empty() ? Json(nullptr) : Json(report.fallback)}};
  if (figures == Figures::kAll) json["seconds"] = report.seconds;
  for (const auto& [key, value] : report.details.items()) json[key] = value;
  return json;
}

}  // namespace

bool QuantizeSummary::fell_back() const {
  return std::ranges::any_of(tensors, [](const TensorReport& report) { return !report.fallback.empty(); }) ||
         std::ranges::any_of(tuning, [](const Json& phase) { return phase.contains("fallback"); });
}

Json to_json(const QuantizeSummary& summary, Figures figures) {
  Json json{{"scheme", summary.scheme}, {"method", summary.method}};
  if (!summary.scale_type.empty()) json["scale_type"] = summary.scale_type;
  if (figures == Figures::kAll) {
    json["seconds"] = summary.seconds;
    json["peak_rss_bytes"] = summary.peak_rss_bytes;
    json["output_bytes"] = summary.output_bytes;
  }
  if (!summary.allocation.is_null()) json["allocation"] = summary.allocation;
  if (!summary.verdict.is_null()) json["for"] = summary.verdict;
  json["bits_per_weight"] = summary.bits_per_weight;
  if (!summary.tuning.is_null()) json["tuning"] = summary.tuning;
  json["tensors"] = Json::array();
  for (const TensorReport& report : summary.tensors) json["tensors"].push_back(to_json(report, figures));
  return json;
}

}  // namespace retort
