#include <algorithm>
#include <charconv>

#include "core/base/error.h"
#include "eval/perplexity.h"

namespace retort {
namespace {

struct ConventionName {
  std::string_view prefix;
  Convention::Kind kind;
};
constexpr ConventionName kNames[] = {{"windows-", Convention::Kind::kWindows},
                                     {"llama.cpp-", Convention::Kind::kLlamaCpp}};
constexpr int64_t kLongest = int64_t{1} << 24;

}  // namespace

Convention parse_convention(std::string_view name) {
  for (const auto& [prefix, kind] : kNames) {
    if (!name.starts_with(prefix)) continue;
    const std::string_view digits = name.substr(prefix.size());
    Convention convention{kind, 0};
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), convention.window);
    const bool whole = error == std::errc() && end == digits.data() + digits.size();
    if (whole && convention.window <= kLongest && convention.scored() >= 1 && convention.window >= 2) return convention;
  }
  fail_usage("eval", "--convention " + std::string(name), "not a convention",
             "Conventions are windows-N and llama.cpp-N with a window of N tokens, such as windows-512");
}

std::string name_of(const Convention& convention) {
  const auto is_it = [&](const ConventionName& name) { return name.kind == convention.kind; };
  return std::string(std::find_if(std::begin(kNames), std::end(kNames), is_it)->prefix) +
         std::to_string(convention.window);
}

Convention default_convention(const ModelConfig& config) {
  return {Convention::Kind::kWindows, std::clamp<int64_t>(config.context_length, 2, 512)};
}

}  // namespace retort
