#include "core/pack/packed_format.h"

#include "core/base/error.h"
#include "core/pack/formats.h"

namespace retort {

std::string PackedFormat::refuses(const QuantizedMatrix& matrix) const {
  const std::string reason = holds_outliers ? "" : refuses_outliers(matrix, name);
  return reason.empty() ? refuses_layout(matrix) : reason;
}

std::vector<PackedPart> PackedFormat::pack(const QuantizedMatrix& matrix) const {
  std::vector<PackedPart> parts = pack_rows(matrix);
  if (finish_parts != nullptr) finish_parts(parts, matrix.rows, matrix.cols);
  return parts;
}

std::string refuses_outliers(const QuantizedMatrix& matrix, std::string_view place) {
  return matrix.outlier_columns.empty() ? "" : "columns kept in 16 bits have no place in " + std::string(place);
}

std::span<const PackedFormat> packed_formats() {
  static const std::vector<PackedFormat> kFormats = [] {
    std::vector<PackedFormat> formats{
        kNativeFormat,      kGptqV1Format,           kGptqV2Format, kAwqFormat, kCompressedTensorsFormat,
        kMatMulNBitsFormat, kDequantizeLinearFormat, kMlxFormat};
    for (const PackedFormat& format : block_formats()) formats.push_back(format);
    return formats;
  }();
  return kFormats;
}

const PackedFormat& packed_format(std::string_view name) {
  for (const PackedFormat& format : packed_formats())
    if (format.name == name) return format;
  fail("pack", name, "there is no packed format of this name");
}

const PackedFormat& storage_format(const Scheme& scheme) {
  return packed_format(scheme.is_block() ? name_of(scheme) : "native");
}

std::vector<PackedPartView> views_of(std::span<const PackedPart> parts) {
  std::vector<PackedPartView> views;
  for (const PackedPart& part : parts) views.push_back({part.name, part.dtype, part.shape, part.bytes});
  return views;
}

}  // namespace retort
