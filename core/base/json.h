// JSON with limits: what a checkpoint holds is not trusted.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace retort {

using Json = nlohmann::ordered_json;  // keeps the order of keys, so that rewritten files stay readable

// Parses `text`; at most 128 levels deep and 32768 keys in an object; duplicate keys in one object are an error.
// `label` names the text in error messages.
Json parse_json(std::string_view text, std::string_view label);
Json read_json_file(const std::filesystem::path& path);

// The same with keys in alphabetical order: for objects of very many keys (a vocabulary), which take Json time
// that grows with the square of their number.
using SortedJson = nlohmann::json;
SortedJson parse_sorted_json(std::string_view text, std::string_view label);

// `key` of `object` as T, or `fallback` where the key is absent or null; a value of another type is an error
// that names `label` and the key. AnyJson is Json or SortedJson.
template <typename T, typename AnyJson>
T json_value(const AnyJson& object, const char* key, T fallback, std::string_view label);
// As above, and an absent key is an error.
template <typename T, typename AnyJson>
T json_required(const AnyJson& object, const char* key, std::string_view label);

}  // namespace retort

#include "core/base/json_inl.h"
