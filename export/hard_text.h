// What tokenizers are compared by.
#pragma once

#include <string_view>

namespace retort {

// A text that tokenizers trip over: scripts, emoji, runs of white space, control characters. No special tokens.
std::string_view hard_text();

}  // namespace retort
