// UTF-8: decoding, encoding, and the repair of what is not valid.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace retort {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

struct CodePoint {
  char32_t value;
  size_t length;  // bytes
};

// The character that starts at byte `at` of valid UTF-8.
CodePoint decode_utf8(std::string_view text, size_t at);
void append_utf8(std::string& out, char32_t value);

// The length of the longest valid prefix.
size_t valid_utf8_prefix(std::string_view text);
// Every maximal part of a sequence that is not valid becomes one U+FFFD (Unicode 15, section 3.9, "U+FFFD
// Substitution of Maximal Subparts").
std::string replace_invalid_utf8(std::string_view text);

// The character of which valid UTF-8 is a run; empty: it has several.
inline std::string_view repeated_character(std::string_view text) {
  const std::string_view first = text.substr(0, text.empty() ? 0 : decode_utf8(text, 0).length);
  for (std::string_view rest = text; !rest.empty(); rest.remove_prefix(first.size()))
    if (!rest.starts_with(first)) return {};
  return first;
}

// Calls visit(char32_t) for every character of valid UTF-8.
template <typename Visit>
void for_each_character(std::string_view text, Visit&& visit) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    visit(c.value);
    at += c.length;
  }
}

}  // namespace retort
