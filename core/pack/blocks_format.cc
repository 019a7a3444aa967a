// The GGUF block types (ggml-common.h, ggml-quants.c): 32 weights, an f16 scale, then the signed codes.
//   q8_0: 34 bytes, int8 each.   q4_0: 18 bytes, code + 8; the low nibble of byte j is weight j, the high one j + 16.
#include <cstring>

#include "core/pack/formats.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

constexpr int64_t kBlock = 32;

struct BlockLayout {
  std::string_view name;
  int bits;
  int64_t bytes;  // of a block
  // `signed_codes` are 32 values in [-2^(bits-1), 2^(bits-1)).
  void (*write)(const int* signed_codes, uint8_t* out);
  void (*read)(const uint8_t* in, int* signed_codes);
};

void write_q8_0(const int* codes, uint8_t* out) {
  for (int64_t j = 0; j < kBlock; ++j) out[j] = static_cast<uint8_t>(codes[j]);
}
void read_q8_0(const uint8_t* in, int* codes) {
  for (int64_t j = 0; j < kBlock; ++j) codes[j] = static_cast<int8_t>(in[j]);
}
void write_q4_0(const int* codes, uint8_t* out) {
  for (int64_t j = 0; j < kBlock / 2; ++j)
    out[j] = static_cast<uint8_t>((codes[j] + 8) | ((codes[j + kBlock / 2] + 8) << 4));
}
void read_q4_0(const uint8_t* in, int* codes) {
  for (int64_t j = 0; j < kBlock / 2; ++j) {
    codes[j] = (in[j] & 15) - 8;
    codes[j + kBlock / 2] = (in[j] >> 4) - 8;
  }
}

constexpr BlockLayout kQ8{"q8_0", 8, 34, write_q8_0, read_q8_0};
constexpr BlockLayout kQ4{"q4_0", 4, 18, write_q4_0, read_q4_0};

// A symmetric code of fewer bits is a smaller signed number: it fits, and so does a scale that several blocks share.
std::string refuses(const BlockLayout& layout, const QuantizedMatrix& m) {
  const std::string name(layout.name);
  if (!m.scheme.symmetric) return name + " has no zero points";
  if (m.scheme.bits > layout.bits) return name + " holds " + std::to_string(layout.bits) + "-bit codes";
  if (m.cols % kBlock != 0) return name + " needs rows of a multiple of 32 weights";
  if (!m.scheme.fits(m.cols)) return "the group size does not divide the row length";
  if (m.scheme.group_size(m.cols) % kBlock != 0) return name + " has one scale for each 32 weights in a row";
  if (!groups_in_order(m)) return name + " cannot hold groups in activation order";
  return {};
}

std::vector<PackedPart> pack(const BlockLayout& layout, const QuantizedMatrix& m) {
  const int64_t blocks = m.cols / kBlock, row_bytes = blocks * layout.bytes;
  std::vector<uint8_t> packed(static_cast<size_t>(m.rows * row_bytes));
  uint8_t* out = packed.data();
  for (int64_t i = 0; i < m.rows * blocks; ++i, out += layout.bytes) {
    const int64_t group = m.group_of(i % blocks * kBlock);
    const uint16_t scale = f32_to_f16(m.scales[static_cast<size_t>(i / blocks * m.groups() + group)]);
    std::memcpy(out, &scale, 2);
    int codes[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) codes[j] = m.codes[static_cast<size_t>(i * kBlock + j)] - m.scheme.middle();
    layout.write(codes, out + 2);
  }
  std::vector<PackedPart> parts;
  parts.push_back(make_part("blocks", DType::kU8, {m.rows, row_bytes}, packed));
  return parts;
}

void read_block(const BlockLayout& layout, const uint8_t* block, int64_t i, QuantizedMatrix& m,
                std::string_view subject) {
  const int64_t blocks = m.cols / kBlock, col = i % blocks * kBlock;
  uint16_t bits = 0;
  std::memcpy(&bits, block, 2);
  float& scale = m.scales[static_cast<size_t>(i / blocks * m.groups() + m.group_of(col))];
  if (col % m.scheme.group_size(m.cols) == 0)
    scale = f16_to_f32(bits);
  else if (scale != f16_to_f32(bits))
    fail("unpack", subject, "the blocks of one group have different scales");
  int codes[kBlock];
  layout.read(block + 2, codes);
  for (int64_t j = 0; j < kBlock; ++j) {
    const int code = codes[j] + m.scheme.middle();
    if (code < 0 || code > m.scheme.max_code()) fail("unpack", subject, "a code is out of range");
    m.codes[static_cast<size_t>(i * kBlock + j)] = static_cast<uint8_t>(code);
  }
}

QuantizedMatrix unpack(const BlockLayout& layout, const Scheme& scheme, int64_t rows, int64_t cols,
                       std::span<const PackedPartView> parts, std::string_view subject) {
  QuantizedMatrix shape;
  shape.scheme = scheme;
  shape.cols = cols;
  if (const std::string reason = refuses(layout, shape); !reason.empty()) fail("unpack", subject, reason);
  const PackedPartView& part = require_part(parts, "blocks", DType::kU8, {rows, cols / kBlock * layout.bytes}, subject);
  QuantizedMatrix m = make_quantized(scheme, rows, cols);
  const auto* block = reinterpret_cast<const uint8_t*>(part.bytes.data());
  for (int64_t i = 0; i < rows * (cols / kBlock); ++i, block += layout.bytes) read_block(layout, block, i, m, subject);
  check_matrix(m, subject);
  return m;
}

template <const BlockLayout& layout>
constexpr PackedFormat format_of() {
  return {layout.name, [](const QuantizedMatrix& m) { return refuses(layout, m); },
          [](const QuantizedMatrix& m) { return pack(layout, m); },
          [](const Scheme& scheme, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
             std::string_view subject) { return unpack(layout, scheme, rows, cols, parts, subject); }};
}

}  // namespace

const PackedFormat kQ8Format = format_of<kQ8>();
const PackedFormat kQ4Format = format_of<kQ4>();

}  // namespace retort
