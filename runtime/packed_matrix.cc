#include "runtime/packed_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
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

WeightType block_type(const Scheme& scheme) {
  switch (scheme.block) {
    case BlockType::kIq4Nl: return WeightType::kIq4;
    case BlockType::kQ2K: return WeightType::kQ2K;
    case BlockType::kQ3K: return WeightType::kQ3K;
    case BlockType::kQ4K: return WeightType::kQ4K;
    case BlockType::kQ5K: return WeightType::kQ5K;
    case BlockType::kQ6K: return WeightType::kQ6K;
    case BlockType::kIq4Xs: return WeightType::kIq4Xs;
    default: return scheme.bits <= 4 ? WeightType::kInt4 : WeightType::kInt8;
  }
}

WeightType type_for(const Scheme& scheme, bool float_math) {
  if (float_math || scheme.book == CodeBook::kNf4) return WeightType::kF32;
  if (!scheme.is_dense()) return block_type(scheme);
  if (*scheme.dense == DType::kF16) return WeightType::kF16;
  return *scheme.dense == DType::kBF16 ? WeightType::kBF16 : WeightType::kF32;
}

bool has_bytes(WeightType type) {  // a byte for each code, not four bits
  return type == WeightType::kInt8 || type == WeightType::kQ5K || type == WeightType::kQ6K;
}

int64_t tile_size(WeightType type, int64_t packed_cols) {
  const int64_t codes = packed_cols * kTileRows;
  if (type < WeightType::kF16) return has_bytes(type) ? codes : codes / 2;
  return type == WeightType::kF32 ? codes * 4 : codes * 2;
}

// Super-blocks fill their rows; other groups are padded to whole blocks.
int64_t padded_cols(const Scheme& scheme, int64_t cols) {
  return scheme.is_super_block() ? cols : scheme.groups(cols) * round_up(scheme.group_size(cols), kBlock);
}

int32_t common_zero(const Scheme& scheme) {
  if (scheme.book == CodeBook::kIq4) return 128;
  return scheme.has_minima() ? 0 : scheme.middle();
}

// How many scales, and how many integers that multiply them, a row of a matrix has.
int64_t scales_of_row(const Scheme& scheme, int64_t cols) {
  return scheme.is_super_block() ? cols / kSuperBlock : scheme.groups(cols);
}
int64_t scale_codes_of_row(const Scheme& scheme, int64_t cols) {
  return scheme.is_super_block() ? scheme.groups(cols) : 0;
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
    : type_(type_for(matrix.scheme, false)), rows_(matrix.rows), cols_(matrix.cols), zero_(common_zero(matrix.scheme)) {
  place_columns(matrix, name);
  tile_bytes_ = tile_size(type_, packed_cols_);
  const Scheme& scheme = matrix.scheme;
  const int64_t rows = tile_count() * kTileRows;
  const auto scales = static_cast<size_t>(rows * scales_of_row(scheme, cols_)) * sizeof(uint16_t);
  const auto codes = static_cast<size_t>(rows * scale_codes_of_row(scheme, cols_));
  data_ = AlignedBuffer(static_cast<size_t>(tile_count() * tile_bytes_));
  scales_ = AlignedBuffer(scales);
  if (scheme.has_zeros()) zeros_ = AlignedBuffer(static_cast<size_t>(rows * groups_));
  if (scheme.has_minima()) minima_ = AlignedBuffer(scales);
  outlier_columns_ = matrix.outlier_columns;
  if (!outlier_columns_.empty())
    outliers_ = AlignedBuffer(static_cast<size_t>(rows) * outlier_columns_.size() * sizeof(float));
  if (codes > 0) scale_codes_ = AlignedBuffer(codes);
  if (codes > 0 && scheme.has_minima()) minimum_codes_ = AlignedBuffer(codes);
  threads.run(tile_count(), [&](int64_t tile) { pack_tile(matrix, tile); });
}

uint64_t PackedMatrix::estimate_bytes(const ModelTensor& tensor, bool float_math) {
  const WeightType type = type_for(tensor.scheme, float_math);
  const int64_t rows = round_up(tensor.rows(), kTileRows), cols = tensor.cols();
  if (type >= WeightType::kF16) return static_cast<uint64_t>(rows / kTileRows * tile_size(type, cols));
  const Scheme& scheme = tensor.scheme;
  const int64_t parts = scheme.has_minima() ? 2 : 1;
  int64_t per_row = parts * (2 * scales_of_row(scheme, cols) + scale_codes_of_row(scheme, cols));
  if (scheme.has_zeros()) per_row += scheme.groups(cols);
  per_row += tensor.outliers * static_cast<int64_t>(sizeof(float));
  return static_cast<uint64_t>(rows / kTileRows * tile_size(type, padded_cols(scheme, cols)) + rows * per_row);
}

Tiles PackedMatrix::tiles() const {
  return {.data = data_.data(),
          .tile_bytes = tile_bytes_,
          .rows = rows_,
          .cols = packed_cols_,
          .groups = groups_,
          .scales = scales_.as<uint16_t>(),
          .zeros = zeros_.size() == 0 ? nullptr : zeros_.as<uint8_t>(),
          .zero = zero_,
          .minima = minima_.size() == 0 ? nullptr : minima_.as<uint16_t>(),
          .scale_codes = scale_codes_.as<int8_t>(),
          .minimum_codes = minimum_codes_.as<uint8_t>()};
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
// Columns in 16 bits are padding too: activations that stand out do not widen the range of their neighbours.
void PackedMatrix::place_columns(const QuantizedMatrix& matrix, std::string_view name) {
  groups_ = matrix.groups();
  packed_cols_ = padded_cols(matrix.scheme, cols_);
  const int64_t size = matrix.scheme.group_size(cols_), padded = packed_cols_ / groups_;
  if (matrix.column_group.empty() && matrix.outlier_columns.empty() && (groups_ == 1 || size == padded)) return;
  if (matrix.scheme.is_super_block()) fail("runtime", name, "super-blocks do not come in activation order");
  columns_.assign(static_cast<size_t>(packed_cols_), -1);
  std::vector<int64_t> filled(static_cast<size_t>(groups_), 0);
  for (int64_t c = 0; c < cols_; ++c) {
    const int64_t group = matrix.group_of(c), at = filled[static_cast<size_t>(group)]++;
    if (at >= size) fail("runtime", name, "a group has more columns than the scheme's group size");
    const bool kept = std::ranges::binary_search(matrix.outlier_columns, c);
    columns_[static_cast<size_t>(group * padded + at)] = kept ? -1 : static_cast<int32_t>(c);
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
      if (has_bytes(type_)) {
        out[int8_offset(r, p)] = codes[c];
      } else {
        out[int4_offset(r, p)] |= static_cast<uint8_t>(codes[c] << int4_shift(p));
      }
    }
    if (matrix.scheme.is_super_block()) {
      pack_super_scales(matrix, tile, r);
    } else {
      pack_scales(matrix, tile, r);
    }
    pack_outliers(matrix, tile, r);
  }
}

void PackedMatrix::pack_outliers(const QuantizedMatrix& matrix, int64_t tile, int64_t lane) {
  const auto count = static_cast<int64_t>(outlier_columns_.size());
  for (int64_t k = 0; k < count; ++k)
    outliers_.as<float>()[(tile * count + k) * kTileRows + lane] =
        matrix.outliers[static_cast<size_t>((tile * kTileRows + lane) * count + k)];
}

void PackedMatrix::pack_scales(const QuantizedMatrix& matrix, int64_t tile, int64_t lane) {
  const int64_t row = tile * kTileRows + lane;
  for (int64_t g = 0; g < groups_; ++g) {
    const int64_t at = (tile * groups_ + g) * kTileRows + lane;
    const auto from = static_cast<size_t>(row * groups_ + g);
    scales_.as<uint16_t>()[at] = f32_to_f16(matrix.scales[from]);
    if (zeros_.size() != 0) zeros_.as<uint8_t>()[at] = matrix.zeros[from];
    if (minima_.size() != 0) minima_.as<uint16_t>()[at] = f32_to_f16(matrix.minima[from]);
  }
}

void PackedMatrix::pack_super_scales(const QuantizedMatrix& matrix, int64_t tile, int64_t lane) {
  const int64_t row = tile * kTileRows + lane, supers = cols_ / kSuperBlock;
  for (int64_t i = 0; i < supers; ++i) {
    const int64_t at = (tile * supers + i) * kTileRows + lane;
    scales_.as<uint16_t>()[at] = f32_to_f16(matrix.super.scales[static_cast<size_t>(row * supers + i)]);
    if (minima_.size() != 0)
      minima_.as<uint16_t>()[at] = f32_to_f16(matrix.super.minima[static_cast<size_t>(row * supers + i)]);
  }
  for (int64_t g = 0; g < groups_; ++g) {
    const int64_t at = (tile * groups_ + g) * kTileRows + lane;
    const auto from = static_cast<size_t>(row * groups_ + g);
    scale_codes_.as<int8_t>()[at] = matrix.super.scale_codes[from];
    if (minimum_codes_.size() != 0) minimum_codes_.as<uint8_t>()[at] = matrix.super.minimum_codes[from];
  }
}

// The value of one weight of an integer matrix.
float PackedMatrix::decode(int64_t tile, int64_t lane, int64_t p) const {
  const auto* codes = data_.as<uint8_t>() + tile * tile_bytes_;
  const int64_t group = p / (packed_cols_ / groups_), at = (tile * groups_ + group) * kTileRows + lane;
  int code = has_bytes(type_) ? codes[int8_offset(lane, p)] : codes[int4_offset(lane, p)] >> int4_shift(p) & 0xf;
  if (type_ == WeightType::kIq4 || type_ == WeightType::kIq4Xs) code = kIq4Codes[code];
  const auto level = static_cast<float>(code - (zeros_.size() == 0 ? zero_ : zeros_.as<uint8_t>()[at]));
  const bool super = scale_codes_.size() != 0;
  const int64_t from = super ? (tile * (cols_ / kSuperBlock) + p / kSuperBlock) * kTileRows + lane : at;
  const float factor = super ? scale_codes_.as<int8_t>()[at] : 1.0f;
  const float value = f16_to_f32(scales_.as<uint16_t>()[from]) * factor * level;
  if (minima_.size() == 0) return value;
  const float minimum = super ? minimum_codes_.as<uint8_t>()[at] : 1.0f;
  return value - f16_to_f32(minima_.as<uint16_t>()[from]) * minimum;
}

void PackedMatrix::read_row(int64_t row, std::span<float> out) const {
  const int64_t tile = row / kTileRows, lane = row % kTileRows;
  const std::byte* data = data_.data() + tile * tile_bytes_;
  const auto* halves = reinterpret_cast<const uint16_t*>(data);
  for (int64_t p = 0; p < packed_cols_; ++p) {
    const int64_t c = columns_.empty() ? p : columns_[static_cast<size_t>(p)];
    if (c < 0 || c >= cols_) continue;
    float& value = out[static_cast<size_t>(c)];
    if (type_ == WeightType::kF32) value = reinterpret_cast<const float*>(data)[p * kTileRows + lane];
    if (type_ == WeightType::kF16) value = f16_to_f32(halves[p * kTileRows + lane]);
    if (type_ == WeightType::kBF16) value = bf16_to_f32(halves[p * kTileRows + lane]);
    if (is_integer()) value = decode(tile, lane, p);
  }
  const size_t count = outlier_columns_.size(), first = static_cast<size_t>(tile) * count;
  for (size_t k = 0; k < count; ++k)
    out[static_cast<size_t>(outlier_columns_[k])] = outliers_.as<float>()[(first + k) * kTileRows + lane];
}

void PackedMatrix::add_outliers(const Inputs& inputs, int64_t first, int64_t last, float* out) const {
  const auto count = static_cast<int64_t>(outlier_columns_.size());
  if (count == 0) return;
  for (int64_t token = 0; token < inputs.tokens; ++token) {
    const float* x = inputs.values + token * inputs.value_stride;
    for (int64_t tile = first; tile < last; ++tile) {
      const float* weights = outliers_.as<float>() + tile * count * kTileRows;
      std::array<float, kTileRows> sums = {};
      for (int64_t k = 0; k < count; ++k)
        for (int64_t lane = 0; lane < kTileRows; ++lane)
          sums[static_cast<size_t>(lane)] +=
              x[outlier_columns_[static_cast<size_t>(k)]] * weights[k * kTileRows + lane];
      const int64_t rows = std::min(kTileRows, rows_ - tile * kTileRows);
      for (int64_t lane = 0; lane < rows; ++lane)
        out[token * rows_ + tile * kTileRows + lane] += sums[static_cast<size_t>(lane)];
    }
  }
}

}  // namespace retort
