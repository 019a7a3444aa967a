// The GGUF block types as data (ggml-common.h): what parse_scheme, the packed formats and the grids need to know.
#pragma once

#include <span>
#include <string_view>

#include "core/pack/scheme.h"

namespace retort {

struct BlockInfo {
  BlockType type;
  std::string_view name;  // as --scheme writes it
  int bits;
  int64_t group;  // weights that share a scale
  bool symmetric;
  CodeBook book;
  int64_t elements, bytes;  // of a block; 256 elements: a super-block
  // Super-blocks: the integers that multiply the super-block's scale (and its minimum, 0 ..).
  int least_scale, most_scale, most_minimum;
  BlockType narrow;  // the block of 32 to take where 256 does not divide a row; kNone: none
};

std::span<const BlockInfo> block_types();
const BlockInfo& block_info(BlockType type);  // kNone is our own bug: throws

}  // namespace retort
