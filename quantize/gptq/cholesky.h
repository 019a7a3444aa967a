// A Cholesky factorization whose result does not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/base/context.h"

namespace retort {

// A = R R^T with R upper triangular, for a symmetric float32 matrix on the CPU of which only the upper triangle is
// read. R replaces the upper triangle; what lies below it afterwards is unspecified.
// False when A is not positive definite (or not finite).
bool factor_upper(at::Tensor& matrix, const Context& context);

}  // namespace retort
