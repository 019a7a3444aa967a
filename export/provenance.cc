#include "export/provenance.h"

#include <algorithm>
#include <regex>

#include "core/base/digest.h"
#include "core/base/json.h"
#include "export/hard_text.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

std::string text_at(const Json& json, const char* key) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return found == json.end() || !found->is_string() ? std::string() : found->get<std::string>();
}

// The report names no files.
std::string calibration_of(const Json& report) {
  const auto options = report.is_object() ? report.find("options") : report.end();
  if (options == report.end() || !options->is_object() || !options->contains("samples")) return {};
  const std::string windows = (*options)["samples"].dump() + " windows";
  const auto tokens = options->value("sequence_length", int64_t{0});  // 0: chosen by the model's context
  return tokens > 0 ? windows + " of " + std::to_string(tokens) + " tokens" : windows;
}

std::string tokenizer_digest(const ModelSource& source) {
  if (source.side_file("tokenizer.json") == nullptr && source.side_file("tokenizer.model") == nullptr) return {};
  const auto tokenizer = source.tokenizer();
  const Vocabulary& vocabulary = tokenizer->vocabulary();
  std::string ids;
  for (const int32_t id : tokenizer->encode(hard_text(), true)) ids += std::to_string(id) + ",";
  for (const auto& id : {vocabulary.bos, vocabulary.eos, vocabulary.unknown, vocabulary.padding})
    ids += id ? ";" + std::to_string(*id) : std::string(";");
  for (const bool added : {vocabulary.add_bos, vocabulary.add_eos}) ids += added ? "+" : "-";
  return digest_of(ids);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> Provenance::entries() const {
  std::vector<std::pair<std::string, std::string>> all{{"scheme", scheme},
                                                       {"method", method},
                                                       {"scale_type", scale_type},
                                                       {"calibration", calibration},
                                                       {"tokenizer_digest", tokenizer_digest},
                                                       {"template_digest", template_digest}};
  std::erase_if(all, [](const auto& entry) { return entry.second.empty(); });
  return all;
}

Provenance provenance_of(const ModelSource& source) {
  Provenance provenance;
  const fs::path report = source.path() / "retort.json";
  if (fs::is_regular_file(report)) provenance.report = read_json_file(report);
  const Json carried = json_value(source.config().json, "retort", Json::object(), "config.json");
  const Json& said = provenance.report.is_null() ? carried : provenance.report;
  provenance.scheme = text_at(said, "scheme");
  provenance.method = text_at(said, "method");
  provenance.scale_type = text_at(said, "scale_type");
  provenance.calibration = provenance.report.is_null() ? text_at(said, "calibration") : calibration_of(said);
  provenance.tokenizer_digest = tokenizer_digest(source);
  if (const std::string chat = source.chat_template(); !chat.empty()) provenance.template_digest = digest_of(chat);
  return provenance;
}

std::string base_model_of(const ModelConfig& config) {
  static const std::regex repository("[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*");
  std::string name = text_at(config.json, "_name_or_path");
  std::error_code none;
  return std::regex_match(name, repository) && !fs::exists(name, none) ? name : std::string();
}

}  // namespace retort
