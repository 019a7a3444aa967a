// WHERE the bits of a quantized matrix lie: one row per byte layout, used by every writer and reader but
// verify, which has reading code of its own.
// To add a layout: one file with pack and unpack, one row in packed_format.cc, test vectors in tests/core.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/dtype.h"
#include "core/pack/quantized_matrix.h"

namespace retort {

// One stored tensor of a packed matrix: "codes" of shape [rows, bytes], "qweight" of shape [cols/8, rows], ...
struct PackedPart {
  std::string_view name;
  DType dtype;
  std::vector<int64_t> shape;
  UnsetBytes bytes;
};

// A borrowed part for unpacking; the bytes usually lie in a mapped file and are not aligned.
struct PackedPartView {
  std::string_view name;
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

struct PackedFormat {
  std::string_view name;
  // As refuses(), of matrices without outlier columns.
  std::string (*refuses_layout)(const QuantizedMatrix&);
  // Of a matrix, or of a run of its rows: 32 or a multiple of them. The parts of runs, joined along the axis of the
  // rows, are those of the whole matrix.
  std::vector<PackedPart> (*pack_rows)(const QuantizedMatrix&);
  // The inverse. Sizes and types of the parts are checked; errors name `subject`.
  QuantizedMatrix (*unpack)(const Scheme&, int64_t rows, int64_t cols, std::span<const PackedPartView>,
                            std::string_view subject);
  bool holds_outliers = false;
  // What pack_rows leaves to be done when the parts of all rows are there: it may change their types. Null: nothing.
  void (*finish_parts)(std::span<PackedPart> parts, int64_t rows, int64_t cols) = nullptr;

  std::vector<PackedPart> pack(const QuantizedMatrix& matrix) const;  // the whole
  // Empty when a matrix of this scheme and shape can be stored exactly; otherwise the reason, as a sentence.
  std::string refuses(const QuantizedMatrix& matrix) const;
};

// Why what is called `place` cannot hold the matrix, if it has columns that are kept in 16 bits; else empty.
std::string refuses_outliers(const QuantizedMatrix& matrix, std::string_view place);

// "native": codes (bit-packed, low bits first), scales (f16), zeros (u8), groups (i32), outliers (f16) and
// outlier_columns (i32);
// "q8_0", "q4_k", ...: GGUF blocks; "gptq", "gptq_v2"; "awq": its GEMM layout; "compressed-tensors": pack-quantized;
// "matmulnbits": ONNX Runtime; "dequantizelinear": ONNX; "mlx".
std::span<const PackedFormat> packed_formats();
const PackedFormat& packed_format(std::string_view name);  // an unknown name is our own bug: throws
// The layout in which native directories and GGUF files store a matrix: "native", or its block type's own.
const PackedFormat& storage_format(const Scheme& scheme);
// Views that live as long as `parts`.
std::vector<PackedPartView> views_of(std::span<const PackedPart> parts);

}  // namespace retort
