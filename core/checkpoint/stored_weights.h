// Quantized weights as Retort and other programs store them in safetensors: which tensors make up a weight, and what
// config.json's quantization_config says of them. One row of a table per quant_method.
// The scheme of a weight follows from the shapes of its parts, which must be one of those that the settings name:
// patterns for modules (GPTQ's `dynamic`, the targets of compressed-tensors) need not be understood.
// To add a method: its packed format (core/pack), one row in stored_weights.cc, a sample in tests/core.
// Internal to this folder, and the fuzz target's entry.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/arch/model_config.h"
#include "core/base/json.h"
#include "core/pack/packed_format.h"

namespace retort {

// A tensor that belongs to a weight.
struct StoredPart {
  std::string_view name;  // the end of its name, and what the packed format calls it
  int row_axis;           // the axis of its shape along which the weight's rows lie; -1: it belongs to all rows
};

// Of the scheme that the settings name: `group` is 0 for one scale per row.
struct NamedWidth {
  int bits;
  int64_t group;
};

// How one weight is stored.
struct StoredWeight {
  Scheme scheme;
  const PackedFormat* format = nullptr;
  bool f16_scales = true;    // false: they are bf16 or f32 numbers that f16 does not hold
  std::string problem = {};  // what is wrong with the file, though it can be read
};

struct StoredMethod;

// The settings, checked; refused by name: methods and variants that are not read.
class StoredQuantization {
 public:
  // `config` and `label` outlive this object. Without a quantization_config there is no method.
  StoredQuantization(const ModelConfig& config, const std::string& label);

  bool present() const { return method_ != nullptr; }
  std::string_view container() const;  // as ModelSource has it
  std::span<const StoredPart> parts() const;
  // The tensor that holds this part of the weight, "model.layers.0.mlp.up_proj.weight" or the like.
  std::string part_name(std::string_view weight, const StoredPart& part) const;
  // None: the weight is not quantized. `parts` are those of its tensors that exist, by their part names.
  std::optional<StoredWeight> find(std::string_view weight, int64_t rows, int64_t cols,
                                   std::span<const PackedPartView> parts) const;
  // Rows [first, first + count). Errors name `subject`.
  QuantizedMatrix unpack(const StoredWeight& weight, int64_t rows, int64_t cols, std::span<const PackedPartView> parts,
                         int64_t first, int64_t count, std::string_view subject) const;
  // How many bytes of the parts that brings into memory, where the rows are read one run after another: all of a part
  // whose lines hold pieces of all rows with the first one, and once more with the last. As the parts may have been
  // dropped in between, they are due again then.
  uint64_t bytes_read(int64_t rows, std::span<const PackedPartView> parts, int64_t first, int64_t count) const;

 private:
  const ModelConfig& config_;
  const std::string& label_;
  const Json* settings_ = nullptr;
  const StoredMethod* method_ = nullptr;
};

}  // namespace retort
