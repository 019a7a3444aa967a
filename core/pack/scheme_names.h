#pragma once

#include <string>
#include <vector>

namespace retort {

// Names that parse_scheme takes, the usual ones of those with a number in them: to say what was meant.
std::vector<std::string> scheme_names();

}  // namespace retort
