// Loops that the compiler makes vectors of, for the instruction set that the machine has.
#pragma once

// A function under this mark is compiled for each instruction set, and the best one is chosen when the program
// starts. No multiply-add is fused (cmake/Compiler.cmake), so all give the same bits.
#define RETORT_EACH_ISA __attribute__((target_clones("avx512f", "avx2", "default")))
// What such functions are made of. Vectors go by reference, as their passing by value differs from one instruction set
// to another.
#define RETORT_INLINE inline __attribute__((always_inline))
