#include "export/verify/gguf_blocks.h"

#include <algorithm>
#include <array>

#include "export/verify/rounding.h"

namespace retort {
namespace {

using Bytes = const uint8_t*;

float half(Bytes p) { return f16_number(static_cast<uint16_t>(p[0] + 256 * p[1])); }
int bits(int byte, int64_t first, int count) { return byte >> first & ((1 << count) - 1); }
// Blocks of 32: the first half of the weights lies in the low nibbles, the second in the high ones.
int nibble(Bytes p, int64_t i) { return i < 16 ? p[i] % 16 : p[i - 16] / 16; }

float half_at_0(Bytes b, int64_t) { return half(b); }
float minus_half_at_2(Bytes b, int64_t) { return -half(b + 2); }

constexpr std::array<int8_t, 16> kIq4Values{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

int level_q8_0(Bytes b, int64_t i) { return static_cast<int8_t>(b[2 + i]); }
int level_q4_0(Bytes b, int64_t i) { return nibble(b + 2, i) - 8; }
int level_q4_1(Bytes b, int64_t i) { return nibble(b + 4, i); }
int level_q5_0(Bytes b, int64_t i) { return nibble(b + 6, i) + 16 * bits(b[2 + i / 8], i % 8, 1) - 16; }
int level_q5_1(Bytes b, int64_t i) { return nibble(b + 8, i) + 16 * bits(b[4 + i / 8], i % 8, 1); }
int level_iq4_nl(Bytes b, int64_t i) { return kIq4Values[static_cast<size_t>(nibble(b + 2, i))]; }

// block_q2_K: scales[16], qs[64], d, dmin
int two_bits(Bytes p, int64_t i) { return bits(p[i / 128 * 32 + i % 32], i % 128 / 32 * 2, 2); }
int level_q2_k(Bytes b, int64_t i) { return two_bits(b + 16, i); }
float scale_q2_k(Bytes b, int64_t g) { return half(b + 80) * static_cast<float>(b[g] % 16); }
float minimum_q2_k(Bytes b, int64_t g) { return half(b + 82) * static_cast<float>(b[g] / 16); }

// block_q3_K: hmask[32], qs[64], scales[12], d
int level_q3_k(Bytes b, int64_t i) { return two_bits(b + 32, i) - (bits(b[i % 32], i / 32, 1) == 1 ? 0 : 4); }
float scale_q3_k(Bytes b, int64_t g) {
  const int low = bits(b[96 + g % 8], g < 8 ? 0 : 4, 4), high = bits(b[104 + g % 4], g / 4 * 2, 2);
  return half(b + 108) * static_cast<float>(low + 16 * high - 32);
}

// block_q4_K: d, dmin, scales[12], qs[128]; block_q5_K: d, dmin, scales[12], qh[32], qs[128]. get_scale_min_k4 in `s`.
float scale_of_pair(Bytes b, int64_t g) {
  const Bytes s = b + 4;
  return half(b) * static_cast<float>(g < 4 ? s[g] % 64 : s[g + 4] % 16 + s[g - 4] / 64 * 16);
}
float minimum_of_pair(Bytes b, int64_t g) {
  const Bytes s = b + 4;
  return half(b + 2) * static_cast<float>(g < 4 ? s[g + 4] % 64 : s[g + 4] / 16 + s[g] / 64 * 16);
}
int neighbour_nibble(Bytes p, int64_t i) { return bits(p[i / 64 * 32 + i % 32], i % 64 < 32 ? 0 : 4, 4); }
int level_q4_k(Bytes b, int64_t i) { return neighbour_nibble(b + 16, i); }
int level_q5_k(Bytes b, int64_t i) { return neighbour_nibble(b + 48, i) + 16 * bits(b[16 + i % 32], i / 32, 1); }

// block_q6_K: ql[128], qh[64], scales[16], d
int level_q6_k(Bytes b, int64_t i) {
  const int low = bits(b[i / 128 * 64 + i % 64], i % 128 < 64 ? 0 : 4, 4);
  return low + 16 * two_bits(b + 128, i) - 32;
}
float scale_q6_k(Bytes b, int64_t g) { return half(b + 208) * static_cast<float>(static_cast<int8_t>(b[192 + g])); }

// block_iq4_xs: d, scales_h, scales_l[4], qs[128]
int level_iq4_xs(Bytes b, int64_t i) { return kIq4Values[static_cast<size_t>(nibble(b + 8 + i / 32 * 16, i % 32))]; }
float scale_iq4_xs(Bytes b, int64_t g) {
  const int low = bits(b[4 + g / 2], g % 2 * 4, 4), high = bits(b[2 + g / 4], g % 4 * 2, 2);
  return half(b) * static_cast<float>(low + 16 * high - 32);
}

constexpr std::array kTypes{
    GgufBlockType{2, 32, 18, 32, level_q4_0, half_at_0, nullptr},
    GgufBlockType{3, 32, 20, 32, level_q4_1, half_at_0, minus_half_at_2},
    GgufBlockType{6, 32, 22, 32, level_q5_0, half_at_0, nullptr},
    GgufBlockType{7, 32, 24, 32, level_q5_1, half_at_0, minus_half_at_2},
    GgufBlockType{8, 32, 34, 32, level_q8_0, half_at_0, nullptr},
    GgufBlockType{10, 256, 84, 16, level_q2_k, scale_q2_k, minimum_q2_k},
    GgufBlockType{11, 256, 110, 16, level_q3_k, scale_q3_k, nullptr},
    GgufBlockType{12, 256, 144, 32, level_q4_k, scale_of_pair, minimum_of_pair},
    GgufBlockType{13, 256, 176, 32, level_q5_k, scale_of_pair, minimum_of_pair},
    GgufBlockType{14, 256, 210, 16, level_q6_k, scale_q6_k, nullptr},
    GgufBlockType{20, 32, 18, 32, level_iq4_nl, half_at_0, nullptr},
    GgufBlockType{23, 256, 136, 32, level_iq4_xs, scale_iq4_xs, nullptr},
};

}  // namespace

const GgufBlockType* find_gguf_block_type(uint32_t number) {
  const auto* row = std::ranges::find(kTypes, number, &GgufBlockType::number);
  return row == kTypes.end() ? nullptr : row;
}

}  // namespace retort
