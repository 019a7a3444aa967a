#pragma once

#include "recipes/operation.h"

namespace retort {

std::span<const Operation> stub_operations();

}  // namespace retort
