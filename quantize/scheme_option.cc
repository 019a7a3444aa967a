#include "quantize/scheme_option.h"

#include <optional>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/pack/scheme_names.h"

namespace retort {

Scheme scheme_of_option(std::string_view option, const std::string& name, std::vector<std::string> others) {
  if (const std::optional<Scheme> scheme = find_scheme(name)) return *scheme;
  for (std::string& known : scheme_names())
    if (option == "--keep" || !parse_scheme(known).is_dense()) others.push_back(std::move(known));
  fail_usage("quantize", option, "'" + name + "' is not a scheme",
             "The nearest valid one is " + nearest_name(name, others));
}

}  // namespace retort
