#include "core/pack/held_as.h"

#include <algorithm>

#include "core/pack/packed_format.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

// Groups that MLX has, the widest first: a wider group is the same scale repeated.
constexpr int64_t kMlxGroups[] = {128, 64, 32};

// Whether all codes less their zero points are those of a block. The groups' columns follow each other.
bool codes_fit(const QuantizedMatrix& m, const Scheme& block) {
  const int low = -block.middle(), high = block.max_code() - block.middle();
  const int64_t size = m.scheme.group_size(m.cols);
  for (int64_t r = 0; r < m.rows && !m.zeros.empty(); ++r)
    for (int64_t g = 0; g < m.groups(); ++g) {
      const uint8_t* codes = m.codes.data() + r * m.cols + g * size;
      uint8_t least = 255, most = 0;
      for (int64_t c = 0; c < size; ++c) least = std::min(least, codes[c]), most = std::max(most, codes[c]);
      if (least - m.zero(r, g) < low || most - m.zero(r, g) > high) return false;
    }
  // Without codes: all that the scheme can have.
  return !m.zeros.empty() || !m.scheme.has_zeros() || block.bits > m.scheme.bits;
}

}  // namespace

Scheme gguf_block(const Scheme& scheme) {
  if (scheme.is_block()) return scheme;
  const int bits = scheme.bits + (scheme.symmetric ? 0 : 1);  // of a code less its zero point
  return parse_scheme(bits <= 4 ? "q4_0" : bits == 5 ? "q5_0" : "q8_0");
}

Scheme gguf_centred(const Scheme& scheme) {
  Scheme out = scheme;
  if (!scheme.has_zeros()) return out;
  out.symmetric = true;
  out.bits = gguf_block(scheme).bits;
  return out;
}

Scheme mlx_scheme(const Scheme& scheme, int64_t cols) {
  if (scheme.has_minima() || scheme.is_super_block()) return scheme;  // its groups are its own
  Scheme out = scheme;
  out.block = BlockType::kNone;
  out.granularity = Granularity::kGroup;
  out.group = scheme.group_size(cols);
  for (const int64_t group : kMlxGroups)
    if (scheme.group_size(cols) % group == 0) {
      out.group = group;
      break;
    }
  return out;
}

Scheme compressed_tensors_scheme(Scheme scheme) {
  scheme.block = BlockType::kNone;
  if (scheme.granularity == Granularity::kTensor) scheme.granularity = Granularity::kChannel;
  return scheme;
}

std::string gguf_refuses(const QuantizedMatrix& m) {
  const Scheme block = gguf_block(m.scheme);
  QuantizedMatrix shape;
  shape.scheme = gguf_centred(m.scheme);
  shape.cols = m.cols;
  shape.column_group = m.column_group;
  if (const std::string reason = packed_format(name_of(block)).refuses(shape); !reason.empty()) return reason;
  return codes_fit(m, block) ? "" : name_of(block) + " has no zero points, and these codes need them";
}

std::string mlx_refuses(const QuantizedMatrix& m) {
  if (!groups_in_order(m)) return "columns in activation order have no place in MLX";
  const QuantizedMatrix shape{.scheme = mlx_scheme(m.scheme, m.cols),
                              .rows = m.rows,
                              .cols = m.cols,
                              .codes = {},
                              .scales = m.scales,
                              .zeros = m.zeros,
                              .column_group = {}};
  return packed_format("mlx").refuses(shape);
}

}  // namespace retort
