// Stands in for gptq/ and calibration/ in a program without LibTorch.
#include "core/base/error.h"
#include "quantize/quantizer.h"

namespace retort {

std::vector<SolvedMatrix> solve_gptq(std::span<const MatrixTask>, const InputStatistics*, const SolverOptions&,
                                     Context&) {
  fail("quantize", "gptq", "this program was built without LibTorch", "Use --method rtn, or a build with LibTorch");
}

}  // namespace retort
