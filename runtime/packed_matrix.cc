#include "runtime/packed_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace retort {
namespace {

constexpr size_t kCacheLine = 64, kHugePage = size_t{2} << 20;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Other schemes are decoded to float32 when they are loaded.
bool has_integer_tiles(const Scheme& scheme) { return scheme.is_dense() || scheme.is_plain(); }

WeightType type_for(const Scheme& scheme, bool float_math) {
  if (float_math || !has_integer_tiles(scheme)) return WeightType::kF32;
  if (!scheme.is_dense()) return scheme.bits <= 4 ? WeightType::kInt4 : WeightType::kInt8;
  if (*scheme.dense == DType::kF16) return WeightType::kF16;
  return *scheme.dense == DType::kBF16 ? WeightType::kBF16 : WeightType::kF32;
}

int64_t tile_size(WeightType type, int64_t packed_cols) {
  switch (type) {
    case WeightType::kInt4: return packed_cols * kTileRows / 2;
    case WeightType::kInt8: return packed_cols * kTileRows;
    case WeightType::kF16:
    case WeightType::kBF16: return packed_cols * kTileRows * 2;
    case WeightType::kF32: break;
  }
  return packed_cols * kTileRows * 4;
}

int64_t padded_cols(const Scheme& scheme, int64_t cols) {
  return scheme.groups(cols) * round_up(scheme.group_size(cols), kBlock);
}

// [16 rows][cols] -> [cols][16 rows]
template <typename T>
void interleave(const T* rows, int64_t count, int64_t cols, T* tile) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < cols; ++c) tile[c * kTileRows + r] = rows[r * cols + c];
}

// Where the code of (row, col) lies in an integer tile; kernel.h has the layouts.
int64_t int8_offset(int64_t row, int64_t col) { return col / 4 * 4 * kTileRows + row * 4 + col % 4; }
int64_t int4_offset(int64_t row, int64_t col) { return col / 8 * 4 * kTileRows + row * 4 + col % 4; }
int int4_shift(int64_t col) { return col % 8 < 4 ? 0 : 4; }

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  if (bytes < kHugePage) {
    const size_t rounded = (bytes / kCacheLine + 1) * kCacheLine;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kCacheLine, rounded)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, rounded);
    return;
  }
  const size_t mapped = bytes + kHugePage;
  void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  madvise(mapping, mapped, MADV_HUGEPAGE);
  const uintptr_t address = (reinterpret_cast<uintptr_t>(mapping) + kHugePage - 1) / kHugePage * kHugePage;
  data_ = {reinterpret_cast<std::byte*>(address), FreeAligned{.mapping = mapping, .mapped = mapped}};
}

void FreeAligned::operator()(std::byte* p) const {
  if (mapping != nullptr) {
    munmap(mapping, mapped);
  } else {
    std::free(p);
  }
}

PackedMatrix::PackedMatrix(const ModelSource& source, const ModelTensor& tensor, bool float_math, ThreadPool& threads) {
  if (type_for(tensor.scheme, float_math) == WeightType::kF32 || tensor.scheme.is_dense()) {
    type_ = type_for(tensor.scheme, float_math);
    rows_ = tensor.rows();
    cols_ = packed_cols_ = tensor.cols();
    load_dense(source, tensor, threads);
  } else {
    *this = PackedMatrix(source.read_quantized(tensor), tensor.name, threads);
  }
}

PackedMatrix::PackedMatrix(const QuantizedMatrix& matrix, std::string_view name, ThreadPool& threads)
    : type_(type_for(matrix.scheme, false)), rows_(matrix.rows), cols_(matrix.cols), zero_(matrix.scheme.middle()) {
  place_columns(matrix, name);
  tile_bytes_ = tile_size(type_, packed_cols_);
  const auto per_matrix = static_cast<size_t>(tile_count() * groups_ * kTileRows);
  data_ = AlignedBuffer(static_cast<size_t>(tile_count() * tile_bytes_));
  scales_ = AlignedBuffer(per_matrix * sizeof(uint16_t));
  if (!matrix.zeros.empty()) zeros_ = AlignedBuffer(per_matrix);
  threads.run(tile_count(), [&](int64_t tile) { pack_tile(matrix, tile); });
}

uint64_t PackedMatrix::estimate_bytes(const ModelTensor& tensor, bool float_math) {
  const WeightType type = type_for(tensor.scheme, float_math);
  const bool integer = type == WeightType::kInt4 || type == WeightType::kInt8;
  const int64_t rows = round_up(tensor.rows(), kTileRows);
  const int64_t codes =
      rows / kTileRows * tile_size(type, integer ? padded_cols(tensor.scheme, tensor.cols()) : tensor.cols());
  const int64_t per_group = tensor.scheme.symmetric ? 2 : 3;
  return static_cast<uint64_t>(codes + (integer ? rows * tensor.scheme.groups(tensor.cols()) * per_group : 0));
}

Tiles PackedMatrix::tiles() const {
  return {.data = data_.data(),
          .tile_bytes = tile_bytes_,
          .rows = rows_,
          .cols = packed_cols_,
          .groups = groups_,
          .scales = scales_.as<uint16_t>(),
          .zeros = zeros_.size() == 0 ? nullptr : zeros_.as<uint8_t>(),
          .zero = zero_};
}

void PackedMatrix::load_dense(const ModelSource& source, const ModelTensor& tensor, ThreadPool& threads) {
  tile_bytes_ = tile_size(type_, cols_);
  data_ = AlignedBuffer(static_cast<size_t>(tile_count() * tile_bytes_));
  threads.run(tile_count(), [&](int64_t tile) {
    const int64_t first = tile * kTileRows, count = std::min(kTileRows, rows_ - first);
    std::byte* out = data_.data() + tile * tile_bytes_;
    const auto elements = static_cast<size_t>(count * cols_);
    if (type_ == WeightType::kF32) {
      std::vector<float> values(elements);
      source.read_f32(tensor, first, count, values);
      interleave(values.data(), count, cols_, reinterpret_cast<float*>(out));
    } else {
      std::vector<uint16_t> values(elements);
      source.read_dense(tensor, first, count, std::as_writable_bytes(std::span(values)));
      interleave(values.data(), count, cols_, reinterpret_cast<uint16_t*>(out));
    }
  });
}

// Groups become contiguous runs of whole blocks: columns of activation-ordered matrices move, short groups are padded.
void PackedMatrix::place_columns(const QuantizedMatrix& matrix, std::string_view name) {
  const int64_t size = matrix.scheme.group_size(cols_), padded = round_up(size, kBlock);
  groups_ = matrix.groups();
  packed_cols_ = groups_ * padded;
  if (matrix.column_group.empty() && (groups_ == 1 || size == padded)) return;
  columns_.assign(static_cast<size_t>(packed_cols_), -1);
  std::vector<int64_t> filled(static_cast<size_t>(groups_), 0);
  for (int64_t c = 0; c < cols_; ++c) {
    const int64_t group = matrix.group_of(c), at = filled[static_cast<size_t>(group)]++;
    if (at >= size) fail("runtime", name, "a group has more columns than the scheme's group size");
    columns_[static_cast<size_t>(group * padded + at)] = static_cast<int32_t>(c);
  }
}

void PackedMatrix::pack_tile(const QuantizedMatrix& matrix, int64_t tile) {
  auto* out = data_.as<uint8_t>() + tile * tile_bytes_;
  const int64_t first = tile * kTileRows, count = std::min(kTileRows, rows_ - first);
  for (int64_t r = 0; r < count; ++r) {
    const uint8_t* codes = matrix.codes.data() + (first + r) * cols_;
    for (int64_t p = 0; p < packed_cols_; ++p) {
      const int64_t c = columns_.empty() ? p : columns_[static_cast<size_t>(p)];
      if (c < 0 || c >= cols_) continue;
      if (type_ == WeightType::kInt8) {
        out[int8_offset(r, p)] = codes[c];
      } else {
        out[int4_offset(r, p)] |= static_cast<uint8_t>(codes[c] << int4_shift(p));
      }
    }
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t at = (tile * groups_ + g) * kTileRows + r;
      scales_.as<uint16_t>()[at] = f32_to_f16(matrix.scales[static_cast<size_t>((first + r) * groups_ + g)]);
      if (zeros_.size() != 0) zeros_.as<uint8_t>()[at] = matrix.zero(first + r, g);
    }
  }
}

void PackedMatrix::read_row(int64_t row, std::span<float> out) const {
  const int64_t tile = row / kTileRows, lane = row % kTileRows;
  const std::byte* data = data_.data() + tile * tile_bytes_;
  const auto* halves = reinterpret_cast<const uint16_t*>(data);
  const auto* codes = reinterpret_cast<const uint8_t*>(data);
  for (int64_t p = 0; p < packed_cols_; ++p) {
    const int64_t c = columns_.empty() ? p : columns_[static_cast<size_t>(p)];
    if (c < 0 || c >= cols_) continue;
    float& value = out[static_cast<size_t>(c)];
    if (type_ == WeightType::kF32) value = reinterpret_cast<const float*>(data)[p * kTileRows + lane];
    if (type_ == WeightType::kF16) value = f16_to_f32(halves[p * kTileRows + lane]);
    if (type_ == WeightType::kBF16) value = bf16_to_f32(halves[p * kTileRows + lane]);
    if (!is_integer()) continue;
    const int64_t at = (tile * groups_ + p / (packed_cols_ / groups_)) * kTileRows + lane;
    const int code =
        type_ == WeightType::kInt8 ? codes[int8_offset(lane, p)] : codes[int4_offset(lane, p)] >> int4_shift(p) & 0xf;
    const int zero = zeros_.size() == 0 ? zero_ : zeros_.as<uint8_t>()[at];
    value = f16_to_f32(scales_.as<uint16_t>()[at]) * static_cast<float>(code - zero);
  }
}

}  // namespace retort
