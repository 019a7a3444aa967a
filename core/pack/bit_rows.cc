#include "core/pack/bit_rows.h"

#include "core/base/isa.h"

namespace retort {
namespace {

// Whole bytes of codes whose width divides 8, in loops that compilers make vectors of; gives the codes done.
template <int kBits>
inline size_t pack_bytes(std::span<const uint8_t> codes, uint8_t* out) {
  constexpr size_t kPerByte = 8 / kBits;
  const size_t bytes = codes.size() / kPerByte;
  const uint8_t* in = codes.data();
  for (size_t i = 0; i < bytes; ++i) {
    unsigned byte = 0;
    for (size_t j = 0; j < kPerByte; ++j) byte |= static_cast<unsigned>(in[i * kPerByte + j]) << (j * kBits);
    out[i] = static_cast<uint8_t>(byte);
  }
  return bytes * kPerByte;
}

template <int kBits>
inline size_t unpack_bytes(const uint8_t* packed, std::span<uint8_t> codes) {
  constexpr size_t kPerByte = 8 / kBits;
  const size_t bytes = codes.size() / kPerByte;
  uint8_t* out = codes.data();
  for (size_t i = 0; i < bytes; ++i)
    for (size_t j = 0; j < kPerByte; ++j)
      out[i * kPerByte + j] = static_cast<uint8_t>(packed[i] >> (j * kBits) & ((1 << kBits) - 1));
  return bytes * kPerByte;
}

RETORT_EACH_ISA size_t pack_whole_bytes(std::span<const uint8_t> codes, int bits, uint8_t* out) {
  switch (bits) {
    case 2: return pack_bytes<2>(codes, out);
    case 4: return pack_bytes<4>(codes, out);
    case 8: return pack_bytes<8>(codes, out);
    default: return 0;
  }
}

RETORT_EACH_ISA size_t unpack_whole_bytes(const uint8_t* packed, int bits, std::span<uint8_t> codes) {
  switch (bits) {
    case 2: return unpack_bytes<2>(packed, codes);
    case 4: return unpack_bytes<4>(packed, codes);
    case 8: return unpack_bytes<8>(packed, codes);
    default: return 0;
  }
}

}  // namespace

void pack_row(std::span<const uint8_t> codes, int bits, uint8_t* out) {
  const size_t done = pack_whole_bytes(codes, bits, out);
  out += done * static_cast<size_t>(bits) / 8;
  uint32_t pending = 0;
  int filled = 0;
  for (const uint8_t code : codes.subspan(done)) {
    pending |= static_cast<uint32_t>(code) << filled;
    for (filled += bits; filled >= 8; filled -= 8, pending >>= 8) *out++ = static_cast<uint8_t>(pending);
  }
  if (filled > 0) *out = static_cast<uint8_t>(pending);
}

void unpack_row(const uint8_t* packed, int bits, std::span<uint8_t> codes) {
  const size_t done = unpack_whole_bytes(packed, bits, codes);
  packed += done * static_cast<size_t>(bits) / 8;
  const uint32_t mask = (1u << bits) - 1;
  uint32_t pending = 0;
  int filled = 0;
  for (uint8_t& code : codes.subspan(done)) {
    if (filled < bits) {
      pending |= static_cast<uint32_t>(*packed++) << filled;
      filled += 8;
    }
    code = static_cast<uint8_t>(pending & mask);
    pending >>= bits;
    filled -= bits;
  }
}

}  // namespace retort
