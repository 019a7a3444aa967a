// What Split, Replace and the like look for in a text: a string, a regular expression or a kind of character.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/base/json.h"

namespace retort {

// Called with consecutive byte ranges that together cover a text; `matched` tells matches from what lies between.
// Matches may be empty.
using RangeVisitor = std::function<void(size_t begin, size_t end, bool matched)>;

class Pattern {
 public:
  virtual ~Pattern() = default;
  // `text` is valid UTF-8. Leftmost matches that do not overlap. Thread-safe.
  virtual void ranges(std::string_view text, const RangeVisitor& visit) const = 0;
};

// In Oniguruma's syntax, as Hugging Face tokenizers take it. Errors name `label`: at once for an expression that is
// not valid, and from ranges() when one match takes more than a fixed number of steps.
std::unique_ptr<Pattern> regex_pattern(std::string_view expression, std::string_view label);
std::unique_ptr<Pattern> literal_pattern(std::string_view text, std::string_view label);
std::unique_ptr<Pattern> character_pattern(bool (*matches)(char32_t));
// {"String": "..."} or {"Regex": "..."}, the value of "pattern" in `object`.
std::unique_ptr<Pattern> parse_pattern(const SortedJson& object, std::string_view label);

// Every match of `pattern` in `text` replaced by `content`, which is taken as it is.
std::string replace_all(const Pattern& pattern, std::string_view text, std::string_view content);

}  // namespace retort
