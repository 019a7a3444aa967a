#include "export/provenance.h"

#include <algorithm>
#include <cctype>

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
  const Json& count = (*options)[options->contains("windows") ? "windows" : "samples"];  // had, and asked for
  const std::string windows = count.dump() + " windows";
  const auto length = options->find("sequence_length");
  const int64_t tokens =  // 0: chosen by the model's context
      length != options->end() && length->is_number_integer() ? length->get<int64_t>() : 0;
  return tokens > 0 ? windows + " of " + std::to_string(tokens) + " tokens" : windows;
}

// Null: there is none.
const Json& object_at(const Json& json, const char* key) {
  static const Json kNull;
  const auto found = json.is_object() ? json.find(key) : json.end();
  return found == json.end() || !found->is_object() ? kNull : *found;
}

// llm-compressor says it of each group of modules, and has two words for the same.
bool is_solved_by_activation(const Json& config) {
  const Json& settings = object_at(config, "quantization_config");
  const Json& groups = object_at(settings, "config_groups");
  return text_at(settings, "quant_method") == "compressed-tensors" && !groups.empty() &&
         std::ranges::all_of(groups, [](const Json& group) {
           const std::string order = text_at(object_at(group, "weights"), "actorder");
           return order == "static" || order == "weight";
         });
}

// Of the report that says which method it was, of what an artifact carries, or of the settings of another program.
std::string group_order_of(const Json& report, const Json& carried, const Json& config) {
  if (!report.is_null())
    return text_at(report, "method").ends_with("gptq") ? text_at(report.value("options", Json()), "group_order") : "";
  const std::string order = text_at(carried, "group_order");
  return order.empty() && is_solved_by_activation(config) ? "activation" : order;
}

// Letters, digits, and after the first also '.', '_' and '-'.
bool is_repository_part(std::string_view text) {
  const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  const auto is_part = [&](char c) { return is_plain(c) || c == '.' || c == '_' || c == '-'; };
  return !text.empty() && is_plain(text.front()) && std::ranges::all_of(text, is_part);
}

std::string tokenizer_digest(const ModelSource& source) {
  if (!has_tokenizer(source.side_files())) return {};
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
                                                       {"group_order", group_order},
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
  provenance.group_order = group_order_of(provenance.report, carried, source.config().json);
  provenance.calibration = provenance.report.is_null() ? text_at(said, "calibration") : calibration_of(said);
  provenance.tokenizer_digest = tokenizer_digest(source);
  if (const std::string chat = source.chat_template(); !chat.empty()) provenance.template_digest = digest_of(chat);
  return provenance;
}

std::string model_id_of(const ModelConfig& config) {
  const std::string name = text_at(config.json, "_name_or_path");
  return is_repository_part(name) ? name : base_model_of(config);
}

bool is_repository(std::string_view text) {
  const size_t slash = text.find('/');
  return slash != std::string_view::npos && is_repository_part(text.substr(0, slash)) &&
         is_repository_part(text.substr(slash + 1));
}

std::string base_model_of(const ModelConfig& config) {
  std::string name = text_at(config.json, "_name_or_path");
  return is_repository(name) ? name : std::string();
}

}  // namespace retort
