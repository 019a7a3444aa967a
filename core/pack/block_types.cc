#include "core/pack/block_types.h"

#include <array>

#include "core/base/error.h"

namespace retort {
namespace {

constexpr CodeBook kLinear = CodeBook::kLinear, kIq4 = CodeBook::kIq4;

constexpr std::array kTypes{
    BlockInfo{BlockType::kQ8_0, "q8_0", 8, 32, true, kLinear, 32, 34, 0, 0, 0, BlockType::kNone},
    BlockInfo{BlockType::kQ4_0, "q4_0", 4, 32, true, kLinear, 32, 18, 0, 0, 0, BlockType::kNone},
    BlockInfo{BlockType::kQ4_1, "q4_1", 4, 32, false, kLinear, 32, 20, 0, 0, 0, BlockType::kNone},
    BlockInfo{BlockType::kQ5_0, "q5_0", 5, 32, true, kLinear, 32, 22, 0, 0, 0, BlockType::kNone},
    BlockInfo{BlockType::kQ5_1, "q5_1", 5, 32, false, kLinear, 32, 24, 0, 0, 0, BlockType::kNone},
    BlockInfo{BlockType::kIq4Nl, "iq4_nl", 4, 32, true, kIq4, 32, 18, 0, 0, 0, BlockType::kNone},
    BlockInfo{BlockType::kQ2K, "q2_k", 2, 16, false, kLinear, 256, 84, 0, 15, 15, BlockType::kIq4Nl},
    BlockInfo{BlockType::kQ3K, "q3_k", 3, 16, true, kLinear, 256, 110, -32, 31, 0, BlockType::kIq4Nl},
    BlockInfo{BlockType::kQ4K, "q4_k", 4, 32, false, kLinear, 256, 144, 0, 63, 63, BlockType::kQ5_0},
    BlockInfo{BlockType::kQ5K, "q5_k", 5, 32, false, kLinear, 256, 176, 0, 63, 63, BlockType::kQ5_1},
    BlockInfo{BlockType::kQ6K, "q6_k", 6, 16, true, kLinear, 256, 210, -128, 127, 0, BlockType::kQ8_0},
    BlockInfo{BlockType::kIq4Xs, "iq4_xs", 4, 32, true, kIq4, 256, 136, -32, 31, 0, BlockType::kIq4Nl},
};

}  // namespace

std::span<const BlockInfo> block_types() { return kTypes; }

const BlockInfo& block_info(BlockType type) {
  for (const BlockInfo& info : kTypes)
    if (info.type == type) return info;
  fail("scheme", "block type", "there is no such block type");
}

}  // namespace retort
