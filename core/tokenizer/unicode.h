// Properties of characters and the Unicode normalization forms, from utf8proc's tables.
#pragma once

#include <string>
#include <string_view>

namespace retort {

bool is_whitespace(char32_t c);       // White_Space
bool is_number(char32_t c);           // general category N
bool is_punctuation(char32_t c);      // ASCII punctuation (with $ + < and the like) or general category P
bool is_mark(char32_t c);             // general category M
bool is_nonspacing_mark(char32_t c);  // general category Mn
bool is_other(char32_t c);            // general category C but unassigned: controls, formats, private use
bool is_word(char32_t c);             // \w of Unicode's regular expressions (UTS 18, annex C)

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
// Linear in the text, up to the sorting of runs of combining marks (n log n).
std::string normalize(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);

}  // namespace retort
