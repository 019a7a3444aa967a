// Whether a chat template is one that Jinja can read at all.
// Goal: what is reported is an error to Jinja as transformers sets it up. Non-goal: to find every error; the grammar of
// expressions is not read.
#pragma once

#include <string>
#include <string_view>

namespace retort {

// The first error in delimiters, strings, brackets and blocks, as "line 3: a string does not end"; empty: none.
std::string template_syntax_error(std::string_view chat);

}  // namespace retort
