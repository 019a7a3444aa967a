#include <array>

#include "core/base/error.h"
#include "core/base/text.h"
#include "quantize/quantizer.h"

namespace retort {
namespace {

bool any_scheme(const Scheme& scheme) { return !scheme.is_dense(); }

constexpr std::array kQuantizers{
    Quantizer{.name = "rtn", .version = 8, .needs_calibration = false, .supports = any_scheme, .solve = nullptr},
    Quantizer{.name = "gptq", .version = 9, .needs_calibration = true, .supports = any_scheme, .solve = solve_gptq},
    Quantizer{.name = "awq",
              .version = 7,
              .needs_calibration = true,
              .supports = any_scheme,
              .solve = solve_awq,
              .scales_inputs = true},
    Quantizer{.name = "awq+gptq",
              .version = 7,
              .needs_calibration = true,
              .supports = any_scheme,
              .solve = solve_gptq,
              .scales_inputs = true},
    Quantizer{.name = "imatrix",
              .version = 7,
              .needs_calibration = false,
              .supports = any_scheme,
              .solve = nullptr,
              .weighs_columns = true},
};

}  // namespace

std::span<const Quantizer> quantizers() { return kQuantizers; }

const Quantizer& find_quantizer(std::string_view name) {
  std::vector<std::string> names;
  for (const Quantizer& quantizer : kQuantizers) {
    if (quantizer.name == name) return quantizer;
    names.emplace_back(quantizer.name);
  }
  fail_usage("quantize", "--method", std::string(name) + " is not a method",
             "The nearest valid one is " + nearest_name(name, names));
}

}  // namespace retort
