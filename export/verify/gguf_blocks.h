// The quantized types of GGUF as ggml-common.h defines them and ggml-quants.c decodes them, weight by weight. Shares
// nothing with core/pack.
#pragma once

#include <cstdint>

namespace retort {

// Weight i of a block is scale(block, g) * level(block, i) - minimum(block, g), with g = i / group.
struct GgufBlockType {
  uint32_t number;  // ggml's
  int64_t weights, bytes, group;
  int (*level)(const uint8_t* block, int64_t weight);
  float (*scale)(const uint8_t* block, int64_t group);
  float (*minimum)(const uint8_t* block, int64_t group);  // null: none
};

const GgufBlockType* find_gguf_block_type(uint32_t number);  // nullptr: no type that export writes

}  // namespace retort
