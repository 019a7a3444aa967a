// The block types of ggml, decoded exactly as ggml does (ggml-common.h, ggml-quants.c).
// A row of a matrix is a sequence of blocks; every block holds its own scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace retort {

struct GgmlBlock {
  uint32_t number;        // the ggml type number, as GGUF files have it
  std::string_view name;  // "q4_k": as --scheme writes it
  int64_t elements, bytes;
  void (*decode)(const uint8_t* block, float* values);  // `elements` values
};

std::span<const GgmlBlock> ggml_blocks();
const GgmlBlock* find_ggml_block(uint32_t number);  // nullptr: not a block type we read

// Decodes consecutive blocks; sizes must fit.
void decode_blocks(const GgmlBlock& type, std::span<const std::byte> blocks, std::span<float> values);

}  // namespace retort
