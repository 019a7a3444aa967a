#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/chat_templates.h"
#include "core/checkpoint/sources.h"

namespace fs = std::filesystem;

namespace retort {
namespace {

constexpr std::array kNames{
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
};
constexpr const char* kDefault = "default";
constexpr const char* kTemplates = "additional_chat_templates";  // transformers 4.50 and later: NAME.jinja

// tokenizer_config.json holds one template, or a list of {"name", "template"}. Of two with one name the first counts.
ChatTemplates templates_in(const Json& value, const std::string& label) {
  ChatTemplates templates;
  if (value.is_string()) templates.emplace(kDefault, value.get<std::string>());
  if (!value.is_array()) return templates;
  for (const Json& entry : value)
    if (const auto name = entry.is_object() ? json_value<std::string>(entry, "name", "", label) : ""; !name.empty())
      templates.emplace(name, json_required<std::string>(entry, "template", label));
  return templates;
}

// What chat_template.json or tokenizer_config.json says.
ChatTemplates templates_in_json(std::span<const SideFile> files, const std::string& label) {
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const SideFile* file = find_side_file(files, name);
    if (file == nullptr) continue;
    const std::string place = label + "/" + name;
    const Json json = parse_json(file->bytes, place);
    if (json.is_object() && json.contains("chat_template")) return templates_in(json["chat_template"], place);
  }
  return {};
}

}  // namespace

std::vector<SideFile> read_side_files(const fs::path& directory) {
  std::vector<SideFile> files;
  for (const char* name : kNames)
    if (fs::is_regular_file(directory / name)) files.push_back({name, read_text_file(directory / name)});
  std::vector<fs::path> templates;
  if (fs::is_directory(directory / kTemplates))
    for (const auto& entry : fs::directory_iterator(directory / kTemplates))
      if (entry.is_regular_file() && entry.path().extension() == ".jinja") templates.push_back(entry.path());
  std::sort(templates.begin(), templates.end());
  for (const fs::path& path : templates)
    files.push_back({std::string(kTemplates) + "/" + path.filename().string(), read_text_file(path)});
  return files;
}

void write_side_files(std::span<const SideFile> files, const fs::path& directory) {
  for (const SideFile& file : files) {
    const fs::path path = directory / file.name;
    fs::create_directories(path.parent_path());
    write_text_file(path, file.bytes);
  }
}

const SideFile* find_side_file(std::span<const SideFile> files, std::string_view name) {
  const auto found = std::find_if(files.begin(), files.end(), [&](const SideFile& f) { return f.name == name; });
  return found == files.end() ? nullptr : &*found;
}

std::string chat_template_file(const std::string& name) { return std::string(kTemplates) + "/" + name + ".jinja"; }

ChatTemplates chat_templates_of_side_files(std::span<const SideFile> files, const std::string& label) {
  ChatTemplates templates;
  const SideFile* alone = find_side_file(files, "chat_template.jinja");
  if (alone != nullptr)
    templates[kDefault] = alone->bytes;
  else
    templates = templates_in_json(files, label);
  for (const SideFile& file : files)
    if (const fs::path path = file.name; path.parent_path() == kTemplates) templates[path.stem().string()] = file.bytes;
  std::erase_if(templates, [](const auto& entry) { return entry.second.empty(); });
  return templates;
}

std::string chat_template_of_side_files(std::span<const SideFile> files, const std::string& label) {
  const ChatTemplates templates = chat_templates_of_side_files(files, label);
  const auto found = templates.find(kDefault);
  return found == templates.end() ? std::string() : found->second;
}

bool has_tokenizer(std::span<const SideFile> files) {
  return find_side_file(files, "tokenizer.json") != nullptr || find_side_file(files, "tokenizer.model") != nullptr;
}

std::unique_ptr<Tokenizer> tokenizer_from_side_files(std::span<const SideFile> files, const std::string& label) {
  const SideFile* settings = find_side_file(files, "tokenizer_config.json");
  const std::string_view config = settings == nullptr ? std::string_view() : settings->bytes;
  if (const SideFile* file = find_side_file(files, "tokenizer.json"))
    return tokenizer_from_json(file->bytes, config, label + "/tokenizer.json");
  if (const SideFile* file = find_side_file(files, "tokenizer.model"))
    return tokenizer_from_sentencepiece(std::as_bytes(std::span(file->bytes)), config, label + "/tokenizer.model");
  fail("tokenizer", label, "there is neither a tokenizer.json nor a tokenizer.model");
}

}  // namespace retort
