// Reads of an ONNX model what verify compares, from the protobuf wire format itself: no generated code.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"

namespace retort {

struct OnnxInitializer {
  int64_t data_type = 0;  // ONNX's number
  std::vector<int64_t> dims;
  std::string location;  // file of the data; empty: inside the model
  uint64_t offset = 0, length = 0;
};

// One MatMulNBits.
struct OnnxIntegerProduct {
  std::vector<std::string> inputs;
  std::map<std::string, int64_t> attributes;  // K, N, bits, block_size
};

struct OnnxWeightList {
  std::map<std::string, OnnxInitializer> initializers;
  std::vector<OnnxIntegerProduct> products;
};

// Hostile bytes are an Error naming `label`. The fuzz target's entry.
OnnxWeightList parse_onnx_weights(std::span<const std::byte> model, std::string_view label);

}  // namespace retort
