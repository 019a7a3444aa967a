#include "core/pack/packed_format.h"

#include <array>

#include "core/base/error.h"
#include "core/pack/formats.h"

namespace retort {

std::span<const PackedFormat> packed_formats() {
  static const std::array kFormats{kNativeFormat, kQ8Format,          kQ4Format,  kGptqV1Format,
                                   kGptqV2Format, kMatMulNBitsFormat, kAwqFormat, kMlxFormat};
  return kFormats;
}

const PackedFormat& packed_format(std::string_view name) {
  for (const PackedFormat& format : packed_formats())
    if (format.name == name) return format;
  fail("pack", name, "there is no packed format of this name");
}

const PackedFormat& storage_format(const Scheme& scheme) {
  return packed_format(scheme.block == BlockType::kNone ? "native" : name_of(scheme));
}

std::vector<PackedPartView> views_of(std::span<const PackedPart> parts) {
  std::vector<PackedPartView> views;
  for (const PackedPart& part : parts) views.push_back({part.name, part.dtype, part.shape, part.bytes});
  return views;
}

}  // namespace retort
