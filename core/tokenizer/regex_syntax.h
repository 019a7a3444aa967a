// Hugging Face tokenizers hand regular expressions to Oniguruma (its Ruby syntax); we run PCRE2.
#pragma once

#include <string>
#include <string_view>

namespace retort {

// The same expression in PCRE2's syntax, for PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE. What differs between the two:
// the sets behind \s \w \h and \b, `m` for "dot matches newline", nested and intersected character classes,
// quantifiers such as {2,3}+ (not possessive in Ruby) and {,3}, names of properties. What has no counterpart is
// an error that names `label` and the construct.
std::string pcre2_from_oniguruma(std::string_view expression, std::string_view label);

}  // namespace retort
