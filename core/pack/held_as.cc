#include "core/pack/held_as.h"

#include "core/pack/packed_format.h"
#include "core/pack/parts.h"

namespace retort {
namespace {

// Groups that MLX has, the widest first: a wider group is the same scale repeated.
constexpr int64_t kMlxGroups[] = {128, 64, 32};

bool codes_fit(const QuantizedMatrix& m, const Scheme& block) {
  const int low = -block.middle(), high = block.max_code() - block.middle();
  for (int64_t r = 0; r < m.rows && !m.zeros.empty(); ++r)
    for (int64_t c = 0; c < m.cols; ++c) {
      const int level = m.codes[static_cast<size_t>(r * m.cols + c)] - m.zero(r, m.group_of(c));
      if (level < low || level > high) return false;
    }
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
  if (!codes_fit(m, block)) return name_of(block) + " has no zero points, and these codes need them";
  QuantizedMatrix shape;
  shape.scheme = gguf_centred(m.scheme);
  shape.cols = m.cols;
  shape.column_group = m.column_group;
  return packed_format(name_of(block)).refuses(shape);
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
