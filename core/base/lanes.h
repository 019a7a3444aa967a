// Eight floats at a time in the compiler's vector extension: what a register of AVX2 holds, as GCC 12 leaves wider ones
// in memory there. The lanes are the same whatever registers the machine has, so sums come out the same on every
// machine.
#pragma once

#include <cstdint>

#include "core/base/isa.h"

namespace retort {

constexpr int64_t kLanes = 8;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

// Adding and subtracting 1.5 * 2^23 rounds a float below 2^22 to the nearest integer, ties to even.
constexpr float kRound = 12582912.0f;

}  // namespace retort
