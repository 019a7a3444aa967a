// Rows of codes as streams of bits, the low bits first. A row of whole 32-bit words is the same stream in words.
#pragma once

#include <cstdint>
#include <span>

namespace retort {

// A row of a matrix of codes, which must outlive it.
auto row_of(auto& codes, int64_t row, int64_t cols) {
  return std::span(codes).subspan(static_cast<size_t>(row * cols), static_cast<size_t>(cols));
}

// Bytes of a row; its last byte may be filled up with zero bits.
inline int64_t row_bytes_of(int64_t codes, int bits) { return (codes * bits + 7) / 8; }

void pack_row(std::span<const uint8_t> codes, int bits, uint8_t* out);
void unpack_row(const uint8_t* packed, int bits, std::span<uint8_t> codes);

}  // namespace retort
