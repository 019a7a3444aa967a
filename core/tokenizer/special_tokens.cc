#include "core/tokenizer/special_tokens.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include "core/base/error.h"

namespace retort {
namespace {

// A token is written as its text or as an object with flags.
std::optional<AddedToken> parse_special(const SortedJson& json, std::string_view label) {
  AddedToken token;
  if (json.is_string())
    token.content = json.get<std::string>();
  else if (json.is_object())
    token = parse_added_token(json, label);
  else
    return std::nullopt;
  token.special = true;
  return token;
}

std::optional<std::string> text_of(const SortedJson& config, const char* key, std::string_view label) {
  const auto value = config.find(key);
  if (value == config.end()) return std::nullopt;
  const auto token = parse_special(*value, label);
  return token ? std::optional(token->content) : std::nullopt;
}

// {"0": {...}, "32000": {...}}: tokens in the order of their ids.
std::vector<AddedToken> parse_added_tokens_decoder(const SortedJson& json, std::string_view label) {
  std::vector<AddedToken> tokens;
  for (const auto& [key, value] : json.items()) {
    AddedToken token = parse_added_token(value, label);
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (error != std::errc() || end != key.data() + key.size())
      fail("tokenizer", label, "added_tokens_decoder has the id '" + key + "'");
    tokens.push_back(std::move(token));
  }
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (AddedToken& token : tokens) token.id = -1;  // as far as the reference cares
  return tokens;
}

std::optional<bool> flag_of(const SortedJson& config, const char* key) {
  const auto value = config.find(key);
  return value != config.end() && value->is_boolean() ? std::optional(value->get<bool>()) : std::nullopt;
}

}  // namespace

TokenizerConfig parse_tokenizer_config(std::string_view text, std::string_view beside) {
  TokenizerConfig result;
  if (text.empty()) return result;
  const std::string label = std::filesystem::path(beside).replace_filename("tokenizer_config.json");
  const SortedJson config = parse_sorted_json(text, label);
  if (!config.is_object()) fail("tokenizer", label, "it is not an object");
  result.bos = text_of(config, "bos_token", label);
  result.eos = text_of(config, "eos_token", label);
  result.unknown = text_of(config, "unk_token", label);
  result.padding = text_of(config, "pad_token", label);
  result.add_bos = flag_of(config, "add_bos_token");
  result.add_eos = flag_of(config, "add_eos_token");
  if (const auto added = config.find("added_tokens_decoder"); added != config.end() && added->is_object())
    result.added = parse_added_tokens_decoder(*added, label);
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
    if (const auto value = config.find(key); value != config.end())
      if (auto token = parse_special(*value, label)) result.special.push_back(std::move(*token));
  for (const char* key : {"extra_special_tokens", "additional_special_tokens"})
    if (const auto list = config.find(key); list != config.end())
      for (const auto& [name, value] : list->items())
        if (auto token = parse_special(value, label)) result.special.push_back(std::move(*token));
  return result;
}

}  // namespace retort
