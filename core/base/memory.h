// What this process takes of the machine's memory.
#pragma once

#include <cstdint>

namespace retort {

// Now, which is less than the peak (context.h) where something earlier took more.
uint64_t resident_bytes();

}  // namespace retort
