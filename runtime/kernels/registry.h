// The list of kernels, and which of them this CPU can run.
#pragma once

#include <span>
#include <string_view>

#include "runtime/kernels/kernel.h"

namespace retort {

std::span<const Kernel* const> kernels();  // the fastest first
bool is_supported(const Kernel& kernel);   // by this CPU and its operating system
// The kernel of `table` called `name`, or its first supported one when `name` is empty. A name that is not in the
// table, or that this CPU does not support, is a usage Error.
const Kernel& select_kernel(std::string_view name, std::span<const Kernel* const> table = kernels());

}  // namespace retort
