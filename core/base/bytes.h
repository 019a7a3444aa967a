// Bytes that are about to be written: making room for them does not zero them, which costs as much as writing them.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "core/base/memory.h"

namespace retort {

// An allocator whose elements, where they are made without a value, stay as the memory was.
template <typename T>
struct UnsetAllocator {
  using value_type = T;

  UnsetAllocator() = default;
  template <typename U>
  UnsetAllocator(const UnsetAllocator<U>&) noexcept {}

  T* allocate(size_t count) { return static_cast<T*>(allocate_block(count * sizeof(T))); }
  void deallocate(T* block, size_t count) noexcept { free_block(block, count * sizeof(T)); }
  template <typename U>
  void construct(U* place) noexcept {
    ::new (static_cast<void*>(place)) U;
  }
  template <typename U, typename... Values>
  void construct(U* place, Values&&... values) {
    std::construct_at(place, std::forward<Values>(values)...);
  }
  template <typename U>
  bool operator==(const UnsetAllocator<U>&) const noexcept {
    return true;
  }
};

// UnsetBytes(n) and resize(n) hold whatever was there; UnsetBytes(n, std::byte{0}) holds zeros.
using UnsetBytes = std::vector<std::byte, UnsetAllocator<std::byte>>;

}  // namespace retort
