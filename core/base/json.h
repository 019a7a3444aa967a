// JSON with limits: what a checkpoint holds is not trusted.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace retort {

using Json = nlohmann::ordered_json;  // keeps the order of keys, so that rewritten files stay readable

// Parses `text`; at most 128 levels deep; duplicate keys in one object are an error.
// `label` names the text in error messages.
Json parse_json(std::string_view text, std::string_view label);
Json read_json_file(const std::filesystem::path& path);

// `key` of `object` as T, or `fallback` where the key is absent or null; a value of another type is an error
// that names `label` and the key.
template <typename T>
T json_value(const Json& object, const char* key, T fallback, std::string_view label);
// As above, and an absent key is an error.
template <typename T>
T json_required(const Json& object, const char* key, std::string_view label);

}  // namespace retort

#include "core/base/json_inl.h"
