#pragma once

#include "core/base/error.h"
#include "core/base/json.h"

namespace retort {

template <typename T, typename AnyJson>
T json_required(const AnyJson& object, const char* key, std::string_view label) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) fail("json", label, std::string("the key '") + key + "' is missing");
  try {
    if constexpr (std::is_same_v<T, bool>) {
      if (!it->is_boolean()) throw std::runtime_error("type");
    } else if constexpr (std::is_integral_v<T>) {
      if (!it->is_number_integer()) throw std::runtime_error("type");
      if constexpr (std::is_unsigned_v<T>) {
        if (it->is_number_integer() && !it->is_number_unsigned()) throw std::runtime_error("sign");
      }
    }
    return it->template get<T>();
  } catch (const std::exception&) {
    fail("json", label, std::string("the value of '") + key + "' has the wrong type: " + it->dump().substr(0, 80));
  }
}

template <typename T, typename AnyJson>
T json_value(const AnyJson& object, const char* key, T fallback, std::string_view label) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return fallback;
  return json_required<T>(object, key, label);
}

}  // namespace retort
