// Where a text with U+2581 for its blanks can be cut without changing what merging makes of it.
#pragma once

#include <string_view>

namespace retort {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Whether a token has a mark after another character: only then can a merge reach over the start of a word.
inline bool reaches_over_words(std::string_view token) {
  for (size_t at = token.find(kSpaceMark); at != std::string_view::npos;
       at = token.find(kSpaceMark, at + kSpaceMark.size()))
    if (at > 0 && !token.substr(0, at).ends_with(kSpaceMark)) return true;
  return false;
}

// The length of the first word of `text`: up to the next mark that follows another character.
inline size_t first_word_length(std::string_view text) {
  size_t at = 0;
  while (text.substr(at).starts_with(kSpaceMark)) at += kSpaceMark.size();
  const size_t next = text.find(kSpaceMark, at);
  return next == std::string_view::npos ? text.size() : next;
}

}  // namespace retort
