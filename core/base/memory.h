// What this process takes of the machine's memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace retort {

// Now, which is less than the peak (context.h) where something earlier took more.
uint64_t resident_bytes();

// A block of memory as it is, or std::bad_alloc. From 2 MiB on it comes from the kernel and goes back there at once, in
// huge pages where it has some: one page fault for each, instead of hundreds.
void* allocate_block(size_t bytes);
void free_block(void* block, size_t bytes) noexcept;  // `bytes` as it was allocated

}  // namespace retort
