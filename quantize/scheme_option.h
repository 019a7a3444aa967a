// Schemes as they are named in options.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/pack/scheme.h"

namespace retort {

// A usage Error names the option and the nearest valid name; `others` are names that are valid there too, and go first
// where they are as near.
Scheme scheme_of_option(std::string_view option, const std::string& name, std::vector<std::string> others = {});

}  // namespace retort
