// Importance matrices: any bytes give entries of finite numbers that are not negative, or an Error.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/base/error.h"
#include "quantize/imatrix_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const retort::ImportanceMatrix matrix = retort::parse_imatrix(std::as_bytes(std::span(data, size)), "fuzz");
    for (const auto& [name, activity] : matrix.entries) {
      if (activity.square_sums.empty() || !(activity.tokens > 0)) std::abort();
      for (const float mean : activity.mean_square())
        if (!(mean >= 0) || !std::isfinite(mean)) std::abort();
    }
  } catch (const retort::Error&) {
  }
  return 0;
}
