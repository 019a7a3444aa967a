// The list of kernels, and which of them this CPU can run.
#pragma once

#include <span>
#include <string_view>

#include "runtime/kernels/kernel.h"

namespace retort {

std::span<const Kernel* const> kernels();  // the fastest first
bool is_supported(const Kernel& kernel);   // by this CPU and its operating system
// The kernel called `name`, or the first supported one when `name` is empty. A name that is not in the list, or
// that this CPU does not support, is a usage Error.
const Kernel& select_kernel(std::string_view name);

}  // namespace retort
