#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/pack/ggml_blocks.h"

namespace retort {
namespace {

// Blocks and values made by tests/oracles/make_block_goldens.py. Equal bit for bit: the order of the float32
// operations is part of the format.
TEST(GgmlBlocks, DecodeAsTheGgufPackageDoes) {
  for (const GgmlBlock& type : ggml_blocks()) {
    const std::string path = std::string(RETORT_SOURCE_DIR "/tests/golden/blocks/") + std::string(type.name) + ".bin";
    const MappedFile file(path);
    const auto count = static_cast<int64_t>(file.bytes().size()) / (type.bytes + 4 * type.elements);
    ASSERT_EQ(count, 16) << path;
    std::vector<float> values(static_cast<size_t>(count * type.elements)), expected(values.size());
    const auto split = static_cast<size_t>(count * type.bytes);
    std::memcpy(expected.data(), file.bytes().data() + split, expected.size() * 4);
    decode_blocks(type, file.bytes().first(split), values);
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected[i])) << type.name << " " << i;
    EXPECT_THROW(decode_blocks(type, file.bytes().first(split - 1), values), Error);
  }
}

}  // namespace
}  // namespace retort
