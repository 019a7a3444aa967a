// What this process takes of the machine's memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace retort {

// Now, which is less than the peak (context.h) where something earlier took more.
uint64_t resident_bytes();

// For a large block that is not yet touched: the whole of each huge page inside it then costs one page fault instead
// of hundreds, and few entries of the table of pages. Where the kernel has none, nothing happens.
void prefer_huge_pages(void* block, size_t bytes);

}  // namespace retort
