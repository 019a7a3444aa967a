#include "core/pack/ggml_blocks.h"

#include <array>
#include <cstring>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace retort {
namespace {

float half_at(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return f16_to_f32(bits);
}

uint32_t word_at(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, 4);
  return word;
}

void decode_q8_0(const uint8_t* block, float* out) {
  const float d = half_at(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// The 32-element types share one nibble order: low nibbles are the first half, high nibbles the second.
void decode_q4_0(const uint8_t* block, float* out) {
  const float d = half_at(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

void decode_q4_1(const uint8_t* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block[4 + i] >> 4) + m;
  }
}

int five_bits(uint8_t nibble, uint32_t high, int bit) { return nibble | static_cast<int>((high >> bit & 1) << 4); }

void decode_q5_0(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const uint32_t high = word_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(five_bits(block[6 + i] & 15, high, i) - 16);
    out[i + 16] = d * static_cast<float>(five_bits(block[6 + i] >> 4, high, i + 16) - 16);
  }
}

void decode_q5_1(const uint8_t* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const uint32_t high = word_at(block + 4);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(five_bits(block[8 + i] & 15, high, i)) + m;
    out[i + 16] = d * static_cast<float>(five_bits(block[8 + i] >> 4, high, i + 16)) + m;
  }
}

// 84 bytes: scales[16] (4 bits scale, 4 bits minimum), qs[64], d, dmin.
void decode_q2_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 80), dmin = half_at(block + 82);
  for (int sub = 0; sub < 16; ++sub) {
    const int half = sub / 8, shift = sub % 8 / 2 * 2;
    const uint8_t* q = block + 16 + half * 32 + sub % 2 * 16;
    const float scale = d * static_cast<float>(block[sub] & 15), minimum = dmin * static_cast<float>(block[sub] >> 4);
    for (int i = 0; i < 16; ++i) out[sub * 16 + i] = scale * static_cast<float>(q[i] >> shift & 3) - minimum;
  }
}

// The 6-bit scale of sub-block `sub` among 16, of which 12 bytes hold the low nibbles and the high bit pairs.
int q3_k_scale(const uint8_t* packed, int sub) {
  const int low = sub < 8 ? packed[sub] & 15 : packed[sub - 8] >> 4;
  return (low | (packed[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32;
}

// 110 bytes: hmask[32], qs[64], scales[12], d. A clear bit of hmask means minus 4.
void decode_q3_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 108);
  for (int sub = 0; sub < 16; ++sub) {
    const int half = sub / 8, chunk = sub % 8 / 2, side = sub % 2 * 16;
    const uint8_t *q = block + 32 + half * 32 + side, *high = block + side;
    const float scale = d * static_cast<float>(q3_k_scale(block + 96, sub));
    for (int i = 0; i < 16; ++i) {
      const int minus = high[i] >> (half * 4 + chunk) & 1 ? 0 : 4;
      out[sub * 16 + i] = scale * static_cast<float>((q[i] >> (chunk * 2) & 3) - minus);
    }
  }
}

struct ScaleMinimum {
  float scale, minimum;
};

// Eight pairs of 6-bit numbers in 12 bytes.
ScaleMinimum q4_k_scale(const uint8_t* packed, int sub) {
  if (sub < 4) return {static_cast<float>(packed[sub] & 63), static_cast<float>(packed[sub + 4] & 63)};
  return {static_cast<float>((packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4),
          static_cast<float>((packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4)};
}

// 144 bytes: d, dmin, scales[12], qs[128]; each 32 bytes hold two sub-blocks of 32, low nibbles first.
void decode_q4_k(const uint8_t* block, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  for (int sub = 0; sub < 8; ++sub) {
    const auto [scale, minimum] = q4_k_scale(block + 4, sub);
    const float step = d * scale, offset = dmin * minimum;
    const uint8_t* q = block + 16 + sub / 2 * 32;
    for (int i = 0; i < 32; ++i) out[sub * 32 + i] = step * static_cast<float>(q[i] >> (sub % 2 * 4) & 15) - offset;
  }
}

// 176 bytes: as q4_k with qh[32] before qs; bit `sub` of qh[i] is the fifth bit.
void decode_q5_k(const uint8_t* block, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  for (int sub = 0; sub < 8; ++sub) {
    const auto [scale, minimum] = q4_k_scale(block + 4, sub);
    const float step = d * scale, offset = dmin * minimum;
    const uint8_t *high = block + 16, *q = block + 48 + sub / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int code = (q[i] >> (sub % 2 * 4) & 15) | (high[i] >> sub & 1) << 4;
      out[sub * 32 + i] = step * static_cast<float>(code) - offset;
    }
  }
}

// 210 bytes: ql[128], qh[64], scales[16] (int8), d. Each half of 128 is four runs of 32.
void decode_q6_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, run = i % 128 / 32, lane = i % 32;
    const uint8_t low = block[half * 64 + run % 2 * 32 + lane] >> (run / 2 * 4) & 15;
    const uint8_t high = block[128 + half * 32 + lane] >> (run * 2) & 3;
    const auto scale = static_cast<int8_t>(block[192 + i / 16]);
    out[i] = d * static_cast<float>(scale) * static_cast<float>((low | high << 4) - 32);
  }
}

constexpr std::array<float, 16> kIq4Values{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void decode_iq4_run(float scale, const uint8_t* q, float* out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * kIq4Values[q[i] & 15];
    out[i + 16] = scale * kIq4Values[q[i] >> 4];
  }
}

void decode_iq4_nl(const uint8_t* block, float* out) { decode_iq4_run(half_at(block), block + 2, out); }

// 136 bytes: d, scales_h (2 bits each), scales_l[4] (4 bits each), qs[128].
void decode_iq4_xs(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const int high = block[2] | block[3] << 8;
  for (int sub = 0; sub < 8; ++sub) {
    const int scale = (block[4 + sub / 2] >> (sub % 2 * 4) & 15) | (high >> (2 * sub) & 3) << 4;
    decode_iq4_run(d * static_cast<float>(scale - 32), block + 8 + sub * 16, out + sub * 32);
  }
}

constexpr std::array kBlocks{
    GgmlBlock{2, "q4_0", 32, 18, decode_q4_0},      GgmlBlock{3, "q4_1", 32, 20, decode_q4_1},
    GgmlBlock{6, "q5_0", 32, 22, decode_q5_0},      GgmlBlock{7, "q5_1", 32, 24, decode_q5_1},
    GgmlBlock{8, "q8_0", 32, 34, decode_q8_0},      GgmlBlock{10, "q2_k", 256, 84, decode_q2_k},
    GgmlBlock{11, "q3_k", 256, 110, decode_q3_k},   GgmlBlock{12, "q4_k", 256, 144, decode_q4_k},
    GgmlBlock{13, "q5_k", 256, 176, decode_q5_k},   GgmlBlock{14, "q6_k", 256, 210, decode_q6_k},
    GgmlBlock{20, "iq4_nl", 32, 18, decode_iq4_nl}, GgmlBlock{23, "iq4_xs", 256, 136, decode_iq4_xs},
};

}  // namespace

std::span<const GgmlBlock> ggml_blocks() { return kBlocks; }

const GgmlBlock* find_ggml_block(uint32_t number) {
  for (const GgmlBlock& block : kBlocks)
    if (block.number == number) return &block;
  return nullptr;
}

void decode_blocks(const GgmlBlock& type, std::span<const std::byte> blocks, std::span<float> values) {
  const size_t count = values.size() / static_cast<size_t>(type.elements);
  if (count * static_cast<size_t>(type.elements) != values.size() ||
      count * static_cast<size_t>(type.bytes) != blocks.size())
    fail("decode", type.name, "the number of bytes does not match the number of elements");
  const auto* bytes = reinterpret_cast<const uint8_t*>(blocks.data());
  for (size_t i = 0; i < count; ++i) type.decode(bytes + i * type.bytes, values.data() + i * type.elements);
}

}  // namespace retort
