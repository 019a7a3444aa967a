// The one exception type of Retort. Libraries throw it and never print or exit; cli/ alone catches it.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace retort {

enum class ErrorKind {
  kFailed,       // exit code 1
  kUsage,        // exit code 2: the caller asked for something that does not exist
  kInterrupted,  // exit code 130: stopped on request; what was done is kept
};

// what() reads "[operation] subject: reason. remedy".
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws an Error of kind kFailed. `subject` is what the operation worked on (a file, a tensor, a key);
// `reason` and `remedy` are sentences without the final full stop; `remedy` may be empty.
[[noreturn]] void fail(std::string_view operation, std::string_view subject, std::string_view reason,
                       std::string_view remedy = {});
[[noreturn]] void fail_usage(std::string_view operation, std::string_view subject, std::string_view reason,
                             std::string_view remedy = {});

}  // namespace retort
