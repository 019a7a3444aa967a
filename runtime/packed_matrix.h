// One weight matrix as the kernels want it: tiles of 16 rows in aligned memory, made once when a model is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/checkpoint/model_source.h"
#include "runtime/kernels/kernel.h"

namespace retort {

struct FreeAligned {
  void* mapping = nullptr;  // not null: what munmap gets
  size_t mapped = 0;
  void operator()(std::byte* p) const;
};

// Zeroed memory aligned to cache lines. Large buffers are aligned to huge pages and take memory as they are touched.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes);
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  std::unique_ptr<std::byte, FreeAligned> data_;
  size_t size_ = 0;
};

class PackedMatrix {
 public:
  PackedMatrix() = default;
  // Dense types keep their 16 or 32 bits; integer types of 2 to 4 bits become 4-bit tiles, 5 to 8 bits 8-bit
  // tiles; nf4, whose levels are no integers, becomes float32. With `float_math`, everything becomes float32.
  PackedMatrix(const ModelSource& source, const ModelTensor& tensor, bool float_math, ThreadPool& threads);
  // An integer matrix; errors call it `name`.
  PackedMatrix(const QuantizedMatrix& matrix, std::string_view name, ThreadPool& threads);

  WeightType type() const { return type_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool is_integer() const { return type_ < WeightType::kF16; }
  Tiles tiles() const;
  int64_t tile_count() const { return (rows_ + kTileRows - 1) / kTileRows; }
  int64_t packed_cols() const { return packed_cols_; }
  // The checkpoint's column behind each packed column, -1 for padding and where a column is kept in 16 bits: the
  // integers see neither. Empty: column i is column i.
  std::span<const int32_t> columns() const { return columns_; }
  uint64_t bytes() const {
    return data_.size() + scales_.size() + zeros_.size() + minima_.size() + scale_codes_.size() +
           minimum_codes_.size() + outliers_.size();
  }
  // Adds to out [tokens][rows] what the columns kept in 16 bits give in the rows of tiles [first, last), in float32.
  void add_outliers(const Inputs& inputs, int64_t first, int64_t last, float* out) const;
  // Row `row` as float32, in the checkpoint's order: cols() values.
  void read_row(int64_t row, std::span<float> out) const;

  static uint64_t estimate_bytes(const ModelTensor& tensor, bool float_math);

 private:
  void load_dense(const ModelSource& source, const ModelTensor& tensor, ThreadPool& threads);
  void place_columns(const QuantizedMatrix& matrix, std::string_view name);
  void pack_tile(const QuantizedMatrix& matrix, int64_t tile);
  void pack_scales(const QuantizedMatrix& matrix, int64_t tile, int64_t lane);
  void pack_outliers(const QuantizedMatrix& matrix, int64_t tile, int64_t lane);
  void pack_super_scales(const QuantizedMatrix& matrix, int64_t tile, int64_t lane);
  float decode(int64_t tile, int64_t lane, int64_t packed_col) const;

  WeightType type_ = WeightType::kF32;
  int64_t rows_ = 0, cols_ = 0, packed_cols_ = 0, groups_ = 1, tile_bytes_ = 0;
  int32_t zero_ = 0;
  std::vector<int32_t> columns_, outlier_columns_;
  AlignedBuffer outliers_;  // float32 [tile][outlier column][kTileRows]
  AlignedBuffer data_, scales_, zeros_, minima_, scale_codes_, minimum_codes_;  // kernel.h says how they lie
};

}  // namespace retort
