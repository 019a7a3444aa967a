#include "core/base/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <new>

namespace retort {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

uint64_t resident_bytes() {
  uint64_t all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

void* allocate_block(size_t bytes) {
  if (bytes < kHugePage) return ::operator new(bytes);
  void* block = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  ::madvise(block, bytes, MADV_HUGEPAGE);  // a wish: what the kernel answers does not matter
  return block;
}

void free_block(void* block, size_t bytes) noexcept {
  if (bytes < kHugePage)
    ::operator delete(block);
  else
    ::munmap(block, bytes);
}

}  // namespace retort
