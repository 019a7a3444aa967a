// What the error feedback needs of the inputs: shared by all matrices that have them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quantize/gptq/paired_factor.h"
#include "quantize/quantizer.h"

namespace retort {

// The damped second moment of the inputs as H = F diag(pivots) F^T, F upper triangular with ones on its diagonal.
//
// GPTQ (arXiv:2210.17323) spreads the rounding error of a column over the later ones by the upper Cholesky factor U
// of the inverse, H^-1 = U^T U. It is the same numbers: F = (U / diag(U))^-1 and pivots = 1 / diag(U)^2, and the
// value that GPTQ rounds at place j is W_j + sum over i < j of (W_i - Q_i) F[i][j] (arXiv:2307.13304, theorem 6).
// F comes from one factorization of H without any inverse: half of the work, and less rounding.
struct HessianFactor {
  std::vector<int64_t> order;   // place in the solve -> column of the matrix
  std::vector<uint8_t> dead;    // by column: 1 where no input was ever other than 0
  at::Tensor feedback;          // F [n, n] float32
  PairedFactor paired;          // F again, with options.in_pairs; else undefined
  std::vector<float> pivots;    // by place
  std::vector<float> diagonal;  // of H, by column
  // For the second pass, else empty: H by column but for its diagonal. It is that of the statistics, which must outlive
  // this.
  std::span<const float> second_moment;
  double damp = 0;      // the share of the mean diagonal that was added
  std::string failure;  // not empty: there is no factor, and why
};

// Damping starts at options.damp and doubles until the factorization succeeds. The columns `last` come at the end of
// the order, whatever it is.
HessianFactor factor_hessian(const InputStatistics& statistics, const SolverOptions& options, const Context& context,
                             std::span<const int32_t> last = {});

}  // namespace retort
