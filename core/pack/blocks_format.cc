// The GGUF block types (ggml-common.h, ggml-quants.c): a row is a sequence of blocks, each with its own scales.
#include <array>
#include <cstring>

#include "core/pack/block_types.h"
#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

// What one block holds, without its layout. Blocks of 32 have one scale, no scale codes.
struct Block {
  std::array<uint8_t, 256> codes;
  uint16_t scale = 0, minimum = 0;  // f16
  std::array<int8_t, 16> scale_codes;
  std::array<uint8_t, 16> minimum_codes;
};

void put16(uint8_t* out, uint16_t value) { std::memcpy(out, &value, 2); }
uint16_t get16(const uint8_t* in) {
  uint16_t value;
  std::memcpy(&value, in, 2);
  return value;
}

// In the blocks of 32, byte j has the low four bits of weights j and j + 16.
void put_nibbles(const uint8_t* codes, uint8_t* out) {
  for (int j = 0; j < 16; ++j) out[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}
void get_nibbles(const uint8_t* in, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) codes[j] = in[j] & 15, codes[j + 16] = in[j] >> 4;
}
void put_fifth_bits(const uint8_t* codes, uint8_t* out) {
  uint32_t bits = 0;
  for (int j = 0; j < 32; ++j) bits |= static_cast<uint32_t>(codes[j] >> 4) << j;
  std::memcpy(out, &bits, 4);
}
void get_fifth_bits(const uint8_t* in, uint8_t* codes) {
  uint32_t bits;
  std::memcpy(&bits, in, 4);
  for (int j = 0; j < 32; ++j) codes[j] |= static_cast<uint8_t>((bits >> j & 1) << 4);
}

// Codes are stored as signed numbers.
void write_q8_0(const Block& b, uint8_t* out) {
  put16(out, b.scale);
  for (int j = 0; j < 32; ++j) out[2 + j] = b.codes[j] ^ 128;
}
void read_q8_0(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  for (int j = 0; j < 32; ++j) b.codes[j] = in[2 + j] ^ 128;
}

void write_q4_0(const Block& b, uint8_t* out) {
  put16(out, b.scale);
  put_nibbles(b.codes.data(), out + 2);
}
void read_q4_0(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  get_nibbles(in + 2, b.codes.data());
}

// value = scale * code + m: m is our minimum with the other sign.
void write_q4_1(const Block& b, uint8_t* out) {
  put16(out, b.scale);
  put16(out + 2, b.minimum ^ 0x8000);
  put_nibbles(b.codes.data(), out + 4);
}
void read_q4_1(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  b.minimum = get16(in + 2) ^ 0x8000;
  get_nibbles(in + 4, b.codes.data());
}

void write_q5_0(const Block& b, uint8_t* out) {
  put16(out, b.scale);
  put_fifth_bits(b.codes.data(), out + 2);
  put_nibbles(b.codes.data(), out + 6);
}
void read_q5_0(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  get_nibbles(in + 6, b.codes.data());
  get_fifth_bits(in + 2, b.codes.data());
}

void write_q5_1(const Block& b, uint8_t* out) {
  put16(out, b.scale);
  put16(out + 2, b.minimum ^ 0x8000);
  put_fifth_bits(b.codes.data(), out + 4);
  put_nibbles(b.codes.data(), out + 8);
}
void read_q5_1(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  b.minimum = get16(in + 2) ^ 0x8000;
  get_nibbles(in + 8, b.codes.data());
  get_fifth_bits(in + 4, b.codes.data());
}

// Two bits of each weight: byte j of a half block has those of weights j, j + 32, j + 64 and j + 96.
void put_pairs(const Block& b, int shift, uint8_t* out) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* codes = b.codes.data() + half * 128;
    for (int j = 0; j < 32; ++j) {
      const auto pair = [&](int k) { return (codes[j + 32 * k] >> shift & 3) << (2 * k); };
      out[half * 32 + j] = static_cast<uint8_t>(pair(0) | pair(1) | pair(2) | pair(3));
    }
  }
}
void get_pairs(const uint8_t* in, int shift, Block& b) {
  for (int i = 0; i < 256; ++i)
    b.codes[i] |= static_cast<uint8_t>((in[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) << shift);
}

// The bits from `shift` on: bit k of byte j is of weight j + 32 k.
void put_high_bits(const Block& b, int shift, uint8_t* out) {
  std::array<uint8_t, 32> bits = {};
  for (size_t k = 0; k < 8; ++k)
    for (size_t j = 0; j < 32; ++j) bits[j] = static_cast<uint8_t>(bits[j] | (b.codes[j + 32 * k] >> shift) << k);
  std::memcpy(out, bits.data(), bits.size());
}

void write_q2_k(const Block& b, uint8_t* out) {
  for (int g = 0; g < 16; ++g) out[g] = static_cast<uint8_t>(b.scale_codes[g] | b.minimum_codes[g] << 4);
  put_pairs(b, 0, out + 16);
  put16(out + 80, b.scale);
  put16(out + 82, b.minimum);
}
void read_q2_k(const uint8_t* in, Block& b) {
  for (int g = 0; g < 16; ++g) b.scale_codes[g] = in[g] & 15, b.minimum_codes[g] = in[g] >> 4;
  get_pairs(in + 16, 0, b);
  b.scale = get16(in + 80);
  b.minimum = get16(in + 82);
}

// Byte j of the mask has the third bits of weights j, j + 32, ..., j + 224. Scales are stored + 32: byte g (< 8) has
// the low nibbles of scales g and g + 8, byte 8 + g (< 4) the high bits of scales g, g + 4, g + 8 and g + 12.
void write_q3_k(const Block& b, uint8_t* out) {
  put_high_bits(b, 2, out);
  put_pairs(b, 0, out + 32);
  std::memset(out + 96, 0, 12);
  for (int g = 0; g < 16; ++g) {
    const int scale = b.scale_codes[g] + 32;
    out[96 + g % 8] |= static_cast<uint8_t>((scale & 15) << (g / 8 * 4));
    out[104 + g % 4] |= static_cast<uint8_t>((scale >> 4) << (g / 4 * 2));
  }
  put16(out + 108, b.scale);
}
void read_q3_k(const uint8_t* in, Block& b) {
  for (int i = 0; i < 256; ++i) b.codes[i] = static_cast<uint8_t>((in[i % 32] >> (i / 32) & 1) << 2);
  get_pairs(in + 32, 0, b);
  for (int g = 0; g < 16; ++g) {
    const int low = in[96 + g % 8] >> (g / 8 * 4) & 15, high = in[104 + g % 4] >> (g / 4 * 2) & 3;
    b.scale_codes[g] = static_cast<int8_t>((low | high << 4) - 32);
  }
  b.scale = get16(in + 108);
}

// Eight pairs of 6 bits: bytes 0 to 3 and 4 to 7 have scales and minima of the first four groups, their two high bits
// those of the last four, whose low nibbles lie in bytes 8 to 11.
void put_scale_pairs(const Block& b, uint8_t* out) {
  for (int g = 0; g < 4; ++g) {
    const int scale = b.scale_codes[g + 4], minimum = b.minimum_codes[g + 4];
    out[g] = static_cast<uint8_t>(b.scale_codes[g] | (scale >> 4) << 6);
    out[g + 4] = static_cast<uint8_t>(b.minimum_codes[g] | (minimum >> 4) << 6);
    out[g + 8] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
  }
}
void get_scale_pairs(const uint8_t* in, Block& b) {
  for (int g = 0; g < 4; ++g) {
    b.scale_codes[g] = in[g] & 63, b.minimum_codes[g] = in[g + 4] & 63;
    b.scale_codes[g + 4] = static_cast<int8_t>((in[g + 8] & 15) | (in[g] >> 6) << 4);
    b.minimum_codes[g + 4] = static_cast<uint8_t>((in[g + 8] >> 4) | (in[g + 4] >> 6) << 4);
  }
}

// Each run of 32 bytes has the low nibbles of two neighbouring groups of 32.
void put_group_nibbles(const Block& b, uint8_t* out) {
  for (int i = 0; i < 128; ++i) {
    const uint8_t* codes = b.codes.data() + i / 32 * 64 + i % 32;
    out[i] = static_cast<uint8_t>((codes[0] & 15) | (codes[32] & 15) << 4);
  }
}
void get_group_nibbles(const uint8_t* in, Block& b) {
  for (int i = 0; i < 128; ++i) {
    uint8_t* codes = b.codes.data() + i / 32 * 64 + i % 32;
    codes[0] = in[i] & 15, codes[32] = in[i] >> 4;
  }
}

void write_q4_k(const Block& b, uint8_t* out) {
  put16(out, b.scale);
  put16(out + 2, b.minimum);
  put_scale_pairs(b, out + 4);
  put_group_nibbles(b, out + 16);
}
void read_q4_k(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  b.minimum = get16(in + 2);
  get_scale_pairs(in + 4, b);
  get_group_nibbles(in + 16, b);
}

// As q4_k, with bit g of byte j before the nibbles the fifth bit of weight j of group g.
void write_q5_k(const Block& b, uint8_t* out) {
  put16(out, b.scale);
  put16(out + 2, b.minimum);
  put_scale_pairs(b, out + 4);
  put_high_bits(b, 4, out + 16);
  put_group_nibbles(b, out + 48);
}
void read_q5_k(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  b.minimum = get16(in + 2);
  get_scale_pairs(in + 4, b);
  get_group_nibbles(in + 48, b);
  for (int i = 0; i < 256; ++i) b.codes[i] |= static_cast<uint8_t>((in[16 + i % 32] >> (i / 32) & 1) << 4);
}

// Each half: 64 bytes with the low nibbles of weights j and j + 64 (j < 64), and the high bits as pairs.
void write_q6_k(const Block& b, uint8_t* out) {
  for (int i = 0; i < 128; ++i) {
    const uint8_t* codes = b.codes.data() + i / 64 * 128 + i % 64;
    out[i] = static_cast<uint8_t>((codes[0] & 15) | (codes[64] & 15) << 4);
  }
  put_pairs(b, 4, out + 128);
  for (int g = 0; g < 16; ++g) out[192 + g] = static_cast<uint8_t>(b.scale_codes[g]);
  put16(out + 208, b.scale);
}
void read_q6_k(const uint8_t* in, Block& b) {
  for (int i = 0; i < 128; ++i) {
    uint8_t* codes = b.codes.data() + i / 64 * 128 + i % 64;
    codes[0] = in[i] & 15, codes[64] = in[i] >> 4;
  }
  get_pairs(in + 128, 4, b);
  for (int g = 0; g < 16; ++g) b.scale_codes[g] = static_cast<int8_t>(in[192 + g]);
  b.scale = get16(in + 208);
}

// Scales are stored + 32: four low bits in nibbles, two high bits in a word.
void write_iq4_xs(const Block& b, uint8_t* out) {
  uint16_t high = 0;
  std::memset(out + 4, 0, 4);
  for (int g = 0; g < 8; ++g) {
    const int scale = b.scale_codes[g] + 32;
    high = static_cast<uint16_t>(high | (scale >> 4) << (2 * g));
    out[4 + g / 2] |= static_cast<uint8_t>((scale & 15) << (g % 2 * 4));
    put_nibbles(b.codes.data() + g * 32, out + 8 + g * 16);
  }
  put16(out, b.scale);
  put16(out + 2, high);
}
void read_iq4_xs(const uint8_t* in, Block& b) {
  b.scale = get16(in);
  const int high = get16(in + 2);
  for (int g = 0; g < 8; ++g) {
    const int scale = (in[4 + g / 2] >> (g % 2 * 4) & 15) | (high >> (2 * g) & 3) << 4;
    b.scale_codes[g] = static_cast<int8_t>(scale - 32);
    get_nibbles(in + 8 + g * 16, b.codes.data() + g * 32);
  }
}

struct BlockLayout {
  BlockType type;
  void (*write)(const Block&, uint8_t* out);
  void (*read)(const uint8_t* in, Block&);
};

constexpr std::array kLayouts{
    BlockLayout{BlockType::kQ8_0, write_q8_0, read_q8_0}, BlockLayout{BlockType::kQ4_0, write_q4_0, read_q4_0},
    BlockLayout{BlockType::kQ4_1, write_q4_1, read_q4_1}, BlockLayout{BlockType::kQ5_0, write_q5_0, read_q5_0},
    BlockLayout{BlockType::kQ5_1, write_q5_1, read_q5_1}, BlockLayout{BlockType::kIq4Nl, write_q4_0, read_q4_0},
    BlockLayout{BlockType::kQ2K, write_q2_k, read_q2_k},  BlockLayout{BlockType::kQ3K, write_q3_k, read_q3_k},
    BlockLayout{BlockType::kQ4K, write_q4_k, read_q4_k},  BlockLayout{BlockType::kQ5K, write_q5_k, read_q5_k},
    BlockLayout{BlockType::kQ6K, write_q6_k, read_q6_k},  BlockLayout{BlockType::kIq4Xs, write_iq4_xs, read_iq4_xs},
};

// A symmetric code of fewer bits is a smaller signed number: it fits q8_0, q5_0 and q4_0, and so does a scale that
// several blocks share. Everything else holds its own scheme alone.
std::string refuses(const BlockInfo& info, const QuantizedMatrix& m) {
  const std::string name(info.name);
  if (!m.scheme.fits(m.cols)) return "the group size does not divide the row length";
  if (m.cols % info.elements != 0)
    return name + " needs rows of a multiple of " + std::to_string(info.elements) + " weights";
  if (m.scheme.block == info.type) return {};
  if (info.elements != 32 || !info.symmetric || info.book != CodeBook::kLinear)
    return name + " holds nothing but what was quantized as " + name;
  if (!m.scheme.is_plain()) return name + " holds integers times one scale";
  if (!m.scheme.symmetric) return name + " has no zero points";
  if (m.scheme.bits > info.bits) return name + " holds " + std::to_string(info.bits) + "-bit codes";
  if (m.scheme.group_size(m.cols) % 32 != 0) return name + " has one scale for each 32 weights in a row";
  return groups_in_order(m) ? "" : name + " cannot hold groups in activation order";
}

// The blocks of one matrix: where in it the numbers of block `i` lie.
struct BlockMap {
  const BlockInfo& info;
  int64_t cols, groups, per_row, groups_per_block;
  uint8_t shift;  // added to a code of fewer bits

  BlockMap(const BlockInfo& block, const QuantizedMatrix& m)
      : info(block),
        cols(m.cols),
        groups(m.groups()),
        per_row(m.cols / block.elements),
        groups_per_block(block.elements / block.group),
        shift(static_cast<uint8_t>(m.scheme.block == block.type ? 0 : (1 << (block.bits - 1)) - m.scheme.middle())) {}
  size_t codes(int64_t i) const { return static_cast<size_t>(i * info.elements); }
  size_t group(const QuantizedMatrix& m, int64_t i) const {
    return static_cast<size_t>(i / per_row * groups + m.group_of(i % per_row * info.elements));
  }
};

template <size_t size>
void shift_codes(const uint8_t* codes, uint8_t shift, uint8_t* out) {
  for (size_t j = 0; j < size; ++j) out[j] = static_cast<uint8_t>(codes[j] + shift);
}

Block take_block(const BlockMap& map, const QuantizedMatrix& m, int64_t i) {
  Block block;
  const size_t first = map.codes(i), group = map.group(m, i), at = static_cast<size_t>(i);
  (map.info.elements == 32 ? shift_codes<32> : shift_codes<256>)(m.codes.data() + first, map.shift, block.codes.data());
  const bool super = m.scheme.is_super_block();
  block.scale = f32_to_f16(super ? m.super.scales[at] : m.scales[group]);
  if (m.scheme.has_minima()) block.minimum = f32_to_f16(super ? m.super.minima[at] : m.minima[group]);
  if (!super) return block;
  const auto count = static_cast<size_t>(map.groups_per_block);
  std::copy_n(m.super.scale_codes.begin() + static_cast<int64_t>(group), count, block.scale_codes.begin());
  if (m.scheme.has_minima())
    std::copy_n(m.super.minimum_codes.begin() + static_cast<int64_t>(group), count, block.minimum_codes.begin());
  return block;
}

// False when one of them is above `most`, 2^n - 1, or was below `shift`.
template <size_t size>
bool unshift_codes(const uint8_t* codes, uint8_t shift, uint8_t most, uint8_t* out) {
  unsigned above = 0;
  for (size_t j = 0; j < size; ++j) {
    out[j] = static_cast<uint8_t>(codes[j] - shift);
    above |= out[j] & ~static_cast<unsigned>(most);
  }
  return above == 0;
}

void set_codes(const BlockMap& map, const Block& block, int64_t i, QuantizedMatrix& m, std::string_view subject) {
  const auto unshift = map.info.elements == 32 ? unshift_codes<32> : unshift_codes<256>;
  if (!unshift(block.codes.data(), map.shift, m.scheme.max_code(), m.codes.data() + map.codes(i)))
    fail("unpack", subject, "a code is out of range");
}

void set_super_scales(const BlockMap& map, const Block& block, int64_t i, QuantizedMatrix& m) {
  const auto at = static_cast<size_t>(i);
  const auto group = static_cast<int64_t>(map.group(m, i)), count = map.groups_per_block;
  m.super.scales[at] = f16_to_f32(block.scale);
  std::copy_n(block.scale_codes.begin(), count, m.super.scale_codes.begin() + group);
  if (!m.scheme.has_minima()) return;
  m.super.minima[at] = f16_to_f32(block.minimum);
  std::copy_n(block.minimum_codes.begin(), count, m.super.minimum_codes.begin() + group);
}

void set_block(const BlockMap& map, const Block& block, int64_t i, QuantizedMatrix& m, std::string_view subject) {
  set_codes(map, block, i, m, subject);
  if (m.scheme.is_super_block()) return set_super_scales(map, block, i, m);
  const size_t group = map.group(m, i);
  const bool first = i % map.per_row * map.info.elements % m.scheme.group_size(m.cols) == 0;
  if (first) m.scales[group] = f16_to_f32(block.scale);
  if (m.scales[group] != f16_to_f32(block.scale))
    fail("unpack", subject, "the blocks of one group have different scales");
  if (m.scheme.has_minima()) m.minima[group] = f16_to_f32(block.minimum);
}

std::vector<PackedPart> pack(const BlockLayout& layout, const QuantizedMatrix& m) {
  const BlockMap map(block_info(layout.type), m);
  std::vector<PackedPart> parts{blank_part("blocks", DType::kU8, {m.rows, map.per_row * map.info.bytes})};
  uint8_t* out = elements_of<uint8_t>(parts[0]).data();
  for (int64_t i = 0; i < m.rows * map.per_row; ++i, out += map.info.bytes) layout.write(take_block(map, m, i), out);
  return parts;
}

QuantizedMatrix unpack(const BlockLayout& layout, const Scheme& scheme, int64_t rows, int64_t cols,
                       std::span<const PackedPartView> parts, std::string_view subject) {
  const BlockInfo& info = block_info(layout.type);
  QuantizedMatrix shape;
  shape.scheme = scheme;
  shape.cols = cols;
  if (const std::string reason = refuses(info, shape); !reason.empty()) fail("unpack", subject, reason);
  const PackedPartView& part =
      require_part(parts, "blocks", DType::kU8, {rows, cols / info.elements * info.bytes}, subject);
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  const BlockMap map(info, m);
  const auto* bytes = reinterpret_cast<const uint8_t*>(part.bytes.data());
  for (int64_t i = 0; i < rows * map.per_row; ++i) {
    Block block{};
    layout.read(bytes + i * info.bytes, block);
    set_block(map, block, i, m, subject);
  }
  if (scheme.is_super_block()) expand_super_scales(m, 0, rows);
  check_matrix(m, subject);
  return m;
}

template <size_t at>
PackedFormat format_of() {
  return {block_info(kLayouts[at].type).name,
          [](const QuantizedMatrix& m) { return refuses(block_info(kLayouts[at].type), m); },
          [](const QuantizedMatrix& m) { return pack(kLayouts[at], m); },
          [](const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
             std::string_view subject) { return unpack(kLayouts[at], scheme, rows, cols, parts, subject); }};
}

template <size_t... at>
std::vector<PackedFormat> all_formats(std::index_sequence<at...>) {
  return {format_of<at>()...};
}

}  // namespace

std::vector<PackedFormat> block_formats() { return all_formats(std::make_index_sequence<kLayouts.size()>()); }

}  // namespace retort
