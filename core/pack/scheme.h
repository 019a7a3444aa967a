// WHAT the numbers of a quantized tensor mean. How codes are chosen: quantize/. Where the bits lie: packed_format.h.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/base/dtype.h"

namespace retort {

enum class Granularity : uint8_t { kGroup, kChannel, kTensor };
// The GGUF block types that a matrix can be stored in.
enum class BlockType : uint8_t {
  kNone,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kIq4Nl,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K,
  kIq4Xs,
};
// What a code stands for before it is scaled: itself less its zero point, or an entry of a table (levels_of).
enum class CodeBook : uint8_t { kLinear, kNf4, kIq4 };

// A quantized value is scale * level - minimum. With the linear code book, level = code - zero and codes are
// 0 .. 2^bits - 1; there is one scale (and zero, or minimum) for each run of group_size() columns of a row.
// - Symmetric: zero == 2^(bits-1) throughout, no minimum.
// - Asymmetric integers have zeros, asymmetric blocks (zero 0) have minima: a scheme never has both.
// One scale for the tensor is a channel's scale that is the same in every row.
// A block type is a scheme that GGUF defines with a fixed group (block_types.h): q4_0 is 4 bits in groups of 32. Its
// scales are f16 numbers, or (super-blocks) an f16 number of a run of 256 weights times a small integer of the group.
struct Scheme {
  int bits = 4;  // 2, 3, 4, 8, with blocks also 5, 6; 16 or 32: dense, see `dense`
  Granularity granularity = Granularity::kGroup;
  int64_t group = 128;  // with kGroup
  bool symmetric = true;
  BlockType block = BlockType::kNone;
  std::optional<DType> dense;  // f16, bf16, f32: not quantized
  CodeBook book = CodeBook::kLinear;

  bool is_dense() const { return dense.has_value(); }
  bool is_block() const { return block != BlockType::kNone; }
  bool is_super_block() const { return block >= BlockType::kQ2K; }
  bool has_zeros() const { return !symmetric && !is_block(); }
  bool has_minima() const { return !symmetric && is_block(); }
  // Integers less a zero point, times one f16 scale: what the layouts outside GGUF hold.
  bool is_plain() const { return book == CodeBook::kLinear && !has_minima() && !is_super_block(); }
  // Beside them some columns may be kept in 16 bits (QuantizedMatrix::outliers).
  bool holds_outliers() const { return is_plain() && !is_block(); }
  int64_t group_size(int64_t cols) const { return granularity == Granularity::kGroup ? group : cols; }
  int64_t groups(int64_t cols) const { return cols / group_size(cols); }
  // Columns whose scales are chosen together: a super-block, or a group.
  int64_t unit_size(int64_t cols) const { return is_super_block() ? 256 : group_size(cols); }
  uint8_t middle() const { return static_cast<uint8_t>(1u << (bits - 1)); }
  uint8_t max_code() const { return static_cast<uint8_t>((1u << bits) - 1); }
  bool fits(int64_t cols) const { return is_dense() || cols % unit_size(cols) == 0; }
  bool operator==(const Scheme&) const = default;
};

// "int4-g128-sym", "int4", "int8-channel-sym", "nf4-g64", "q4_0", "q4_k", "f16", ...; a usage Error names the nearest
// valid one.
Scheme parse_scheme(std::string_view text);
std::optional<Scheme> find_scheme(std::string_view text);  // the same without an Error
std::string name_of(const Scheme& scheme);                 // parse_scheme(name_of(s)) == s

// The scheme for a matrix whose rows `scheme` does not divide: same bits by channel; for a super-block the block of 32
// that llama-quantize takes instead; f16 for other blocks.
Scheme fallback_scheme(const Scheme& scheme);

// The levels of a code book, by code, rising: 16 entries; empty for the linear one.
// nf4: arXiv:2305.14314, appendix E. iq4: ggml-common.h, kvalues_iq4nl.
std::span<const float> levels_of(CodeBook book);

// Bits per weight of a [rows, cols] matrix as the native directory stores it: the block's own layout, or rows of codes
// filled up to a byte, and scales (16 bits) and zeros (8 bits) for every group of every row; for each outlier column
// 16 bits a row and 32 for its number.
double bits_per_weight(const Scheme& scheme, int64_t rows, int64_t cols, int64_t outliers = 0);

}  // namespace retort
