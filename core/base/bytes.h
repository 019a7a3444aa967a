// Bytes that are about to be written: resizing does not zero them first, which costs as much as writing them.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace retort {

// As std::allocator, but for elements made without a value, which stay as the memory was.
template <typename T>
struct UnsetAllocator : std::allocator<T> {
  template <typename U>
  struct rebind {
    using other = UnsetAllocator<U>;
  };

  template <typename U>
  void construct(U* place) noexcept {
    ::new (static_cast<void*>(place)) U;
  }
  template <typename U, typename... Values>
  void construct(U* place, Values&&... values) {
    std::construct_at(place, std::forward<Values>(values)...);
  }
};

using Bytes = std::vector<std::byte, UnsetAllocator<std::byte>>;

}  // namespace retort
