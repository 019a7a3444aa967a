// Maps that count.
#pragma once

#include <algorithm>

namespace retort {

// The entry with the largest count, of equal ones the first; end() of an empty map.
template <typename Map>
auto largest_count(const Map& counts) {
  return std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; });
}

}  // namespace retort
