// Which options have a say in a run: an option that was given and has none is a mistake, not a wish.
#pragma once

#include <string>
#include <string_view>

#include "quantize/quantize.h"

namespace retort {

// Why the option `name` ("samples") has no say beside the others, as a sentence; empty: it has, or any run heeds it.
std::string why_unheeded(const QuantizeOptions& options, std::string_view name);

}  // namespace retort
