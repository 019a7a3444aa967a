// WHAT the numbers of a quantized tensor mean. How codes are chosen: quantize/. Where the bits lie: packed_format.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/dtype.h"

namespace retort {

enum class Granularity : uint8_t { kGroup, kChannel, kTensor };
// The GGUF block types that a matrix can be stored in.
enum class BlockType : uint8_t { kNone, kQ8_0, kQ4_0 };

// A quantized value is scale * (code - zero), codes 0 .. 2^bits - 1, one scale (and zero) for each run of
// group_size() columns of a row. Symmetric: zero == 2^(bits-1) throughout. Scales are exact in f16.
// One scale for the tensor is a channel's scale that is the same in every row.
// A block type is an integer scheme with a fixed group that GGUF defines: q4_0 is 4 bits in groups of 32.
struct Scheme {
  int bits = 4;  // 2, 3, 4, 8; 16 or 32: dense, see `dense`
  Granularity granularity = Granularity::kGroup;
  int64_t group = 128;  // with kGroup
  bool symmetric = true;
  BlockType block = BlockType::kNone;
  std::optional<DType> dense;  // f16, bf16, f32: not quantized

  bool is_dense() const { return dense.has_value(); }
  int64_t group_size(int64_t cols) const { return granularity == Granularity::kGroup ? group : cols; }
  int64_t groups(int64_t cols) const { return cols / group_size(cols); }
  uint8_t middle() const { return static_cast<uint8_t>(1u << (bits - 1)); }
  uint8_t max_code() const { return static_cast<uint8_t>((1u << bits) - 1); }
  bool fits(int64_t cols) const { return is_dense() || cols % group_size(cols) == 0; }
  bool operator==(const Scheme&) const = default;
};

// "int4-g128-sym", "int4", "int8-channel-sym", "q4_0", "f16", ...; a usage Error names the nearest valid one.
Scheme parse_scheme(std::string_view text);
std::optional<Scheme> find_scheme(std::string_view text);  // the same without an Error
std::string name_of(const Scheme& scheme);                 // parse_scheme(name_of(s)) == s

// The scheme for a matrix whose rows `scheme` does not divide: same bits by channel, or f16 for a block type.
Scheme fallback_scheme(const Scheme& scheme);

// Bits per weight of a [rows, cols] matrix as the native directory stores it: rows of codes filled up to a byte,
// and scales (16 bits) and zeros (8 bits) for every group of every row.
double bits_per_weight(const Scheme& scheme, int64_t rows, int64_t cols);

}  // namespace retort
