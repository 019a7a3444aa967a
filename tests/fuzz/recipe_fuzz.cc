// Recipes: any text gives a recipe or an Error. What yaml-cpp itself makes of the text is part of it.
#include <array>
#include <cstdint>
#include <string>

#include "core/base/error.h"
#include "recipes/recipe.h"

namespace {

constexpr std::array kParams{
    retort::ParamSpec{"model", retort::ParamType::kModel, "", "an input"},
    retort::ParamSpec{"text", retort::ParamType::kText, "", "a text"},
    retort::ParamSpec{"steps", retort::ParamType::kInteger, "1", "a number"},
    retort::ParamSpec{"keep", retort::ParamType::kList, "", "texts"},
};
const std::array kTable{
    retort::Operation{"make", 1, "Makes a directory.", kParams, retort::OutputKind::kDirectory, true, false, nullptr}};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    retort::parse_recipe({reinterpret_cast<const char*>(data), size}, "fuzz.yaml", kTable, {});
  } catch (const retort::Error&) {
  }
  return 0;
}
