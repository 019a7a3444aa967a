#include "core/base/error.h"

namespace retort {
namespace {

std::string compose(std::string_view operation, std::string_view subject, std::string_view reason,
                    std::string_view remedy) {
  std::string message;
  message.append("[").append(operation).append("] ").append(subject).append(": ").append(reason);
  if (!remedy.empty()) message.append(". ").append(remedy);
  return message;
}

}  // namespace

void fail(std::string_view operation, std::string_view subject, std::string_view reason,
          std::string_view remedy) {
  throw Error(ErrorKind::kFailed, compose(operation, subject, reason, remedy));
}

void fail_usage(std::string_view operation, std::string_view subject, std::string_view reason,
                std::string_view remedy) {
  throw Error(ErrorKind::kUsage, compose(operation, subject, reason, remedy));
}

}  // namespace retort
