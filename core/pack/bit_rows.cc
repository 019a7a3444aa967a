#include "core/pack/bit_rows.h"

namespace retort {

void pack_row(std::span<const uint8_t> codes, int bits, uint8_t* out) {
  uint32_t pending = 0;
  int filled = 0;
  for (const uint8_t code : codes) {
    pending |= static_cast<uint32_t>(code) << filled;
    for (filled += bits; filled >= 8; filled -= 8, pending >>= 8) *out++ = static_cast<uint8_t>(pending);
  }
  if (filled > 0) *out = static_cast<uint8_t>(pending);
}

void unpack_row(const uint8_t* packed, int bits, std::span<uint8_t> codes) {
  const uint32_t mask = (1u << bits) - 1;
  uint32_t pending = 0;
  int filled = 0;
  for (uint8_t& code : codes) {
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
