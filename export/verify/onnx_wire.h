// Reads of an ONNX model what verify follows, from the protobuf wire format itself: no generated code.
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
  std::string raw;  // the data, when they lie inside the model
};

struct OnnxNode {
  std::string name, type, domain;
  std::vector<std::string> inputs, outputs;
  std::map<std::string, int64_t> integers;  // attributes
  std::map<std::string, float> numbers;
  std::map<std::string, std::vector<int64_t>> lists;
};

// Its name, or what else tells it from others.
std::string label_of(const OnnxNode& node);

// An input or an output of the graph.
struct OnnxDeclaration {
  std::string name;
  int64_t data_type = 0;
  std::vector<int64_t> dims;  // -1: of a size that is not given
};

struct OnnxParts {
  std::map<std::string, OnnxInitializer> initializers;
  std::vector<OnnxNode> nodes;
  std::vector<OnnxDeclaration> inputs, outputs;
  std::map<std::string, int64_t> opsets;  // version by domain
};

// Hostile bytes are an Error naming `label`, and so is what a graph can say and verify does not follow. The fuzz
// target's entry.
OnnxParts parse_onnx_parts(std::span<const std::byte> model, std::string_view label);

}  // namespace retort
