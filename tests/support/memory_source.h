// A ModelSource that lives in memory: random weights, dense or rounded to nearest in a scheme.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/checkpoint/model_source.h"
#include "tests/support/tiny_model.h"

namespace retort::testing {

// Rounds to nearest with the largest magnitude (symmetric) or the range (asymmetric) of each group.
// `column_group` as in QuantizedMatrix: empty, or the group of every column.
QuantizedMatrix round_to_nearest(const Scheme& scheme, int64_t rows, int64_t cols, std::span<const float> values,
                                 std::vector<int32_t> column_group = {});
// Codes, zero points, scales and minima at random within what the scheme allows.
QuantizedMatrix random_quantized(const Scheme& scheme, int64_t rows, int64_t cols, Random& random);
// Keeps these columns (rising) of a matrix that stands for `values` [rows * cols] in 16 bits.
void keep_columns(QuantizedMatrix& matrix, std::span<const float> values, std::vector<int32_t> columns);
// The groups of an activation-ordered matrix: columns at random, as many in each.
std::vector<int32_t> shuffled_groups(const Scheme& scheme, int64_t cols, uint64_t seed);

class MemorySource : public ModelSource {
 public:
  MemorySource() = default;
  // Linear weights in `linear` (in its fallback where it does not divide the rows), so many columns of them, spread
  // evenly, in 16 bits; everything else in model.dtype.
  MemorySource(const TinyModel& model, const Scheme& linear, bool shuffle_groups = false, int64_t outliers = 0);
  // The weights of `source`, linear ones in `linear`.
  MemorySource(const ModelSource& source, const Scheme& linear);
  const ModelTensor& add_dense(const std::string& name, const std::vector<int64_t>& shape, DType dtype,
                               std::vector<float> values);
  const ModelTensor& add_quantized(const std::string& name, QuantizedMatrix matrix);

  const std::filesystem::path& path() const override { return path_; }
  std::string_view container() const override { return "memory"; }
  const ModelConfig& config() const override { return config_; }
  std::span<const ModelTensor> tensors() const override { return tensors_; }
  std::span<const std::string> problems() const override { return {}; }
  using ModelSource::read_f32;
  void read_f32(const ModelTensor& tensor, int64_t first, int64_t count, std::span<float> out) const override;
  void read_dense(const ModelTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out) const override;
  QuantizedMatrix read_quantized_rows(const ModelTensor& tensor, int64_t first, int64_t count) const override;
  std::span<const SideFile> side_files() const override { return {}; }
  std::string chat_template() const override { return {}; }
  std::unique_ptr<Tokenizer> tokenizer() const override { return nullptr; }

 private:
  void add(const ExpectedTensor& expected, const Scheme& linear, DType dense, std::vector<float> values,
           bool shuffle_groups, int64_t outliers);

  std::filesystem::path path_ = "memory";
  ModelConfig config_;
  std::vector<ModelTensor> tensors_;
  std::map<std::string, std::vector<float>> values_;  // dequantized where quantized
  std::map<std::string, QuantizedMatrix> quantized_;
};

}  // namespace retort::testing
