// What went wrong.
#pragma once

#include <functional>
#include <string>

#include "core/base/error.h"

namespace retort::testing {

// The message of the Error that `body` throws; "no error" when it throws none.
inline std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace retort::testing
