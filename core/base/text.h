// Small helpers on strings that several folders need.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace retort {

// The candidate with the smallest edit distance to `name`, for "did you mean"; empty without candidates.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);
// `*` any run, `?` one character; the whole of `text` must match.
bool glob_match(std::string_view pattern, std::string_view text);
// "8GiB", "700MiB", "512MB", "1024" (bytes); throws a usage Error naming `option`.
uint64_t parse_size(std::string_view text, std::string_view option);
std::string format_bytes(uint64_t bytes);  // "11.0 MiB"

}  // namespace retort
