// Builds an ONNX graph node by node. Values are named by what they are ("layers.3/attention/scores"), so that a
// viewer shows the model, and the bytes do not depend on anything but the calls.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/dtype.h"

namespace retort {

// A name of a graph's input, initializer or node output.
using OnnxValue = std::string;

struct OnnxAttribute {
  std::string_view name;
  std::variant<int64_t, float, std::vector<int64_t>> value;
};

// The numbers of TensorProto.DataType.
enum class OnnxType : int32_t {
  kF32 = 1,
  kU8 = 2,
  kI8 = 3,
  kI32 = 6,
  kI64 = 7,
  kBool = 9,
  kF16 = 10,
  kBF16 = 16,
  kU4 = 21,
  kI4 = 22
};
OnnxType onnx_type(DType type);

// A size that is known, or the name of one that is not.
using OnnxDim = std::variant<int64_t, std::string>;

class OnnxGraph {
 public:
  OnnxGraph();
  ~OnnxGraph();

  OnnxValue input(std::string name, DType type, const std::vector<OnnxDim>& shape);
  // `value`, made by another node, under the name of an output; that node may have given it this name already.
  void output(std::string name, OnnxValue value, DType type, const std::vector<OnnxDim>& shape);

  // Names of the nodes that follow begin with `scope`.
  void set_scope(std::string scope) { scope_ = std::move(scope); }
  OnnxValue node(std::string_view type, std::initializer_list<OnnxValue> inputs,
                 std::initializer_list<OnnxAttribute> attributes = {}, std::string_view domain = {});
  OnnxValue node(std::string_view type, const std::vector<OnnxValue>& inputs,
                 const std::vector<OnnxAttribute>& attributes, std::string_view domain = {});
  // A node whose outputs have the names given.
  void node_as(std::string_view type, const std::vector<OnnxValue>& inputs, const std::vector<OnnxValue>& outputs,
               const std::vector<OnnxAttribute>& attributes, std::string_view domain = {});
  std::vector<OnnxValue> split(const OnnxValue& value, int64_t axis, int64_t parts);
  OnnxValue cast(const OnnxValue& value, DType to);

  // A constant that can be found by its name.
  void named_floats(const std::string& name, const std::vector<float>& values);  // shape [n]
  // Small constants, kept inside the model file; equal ones are stored once.
  OnnxValue ints(const std::vector<int64_t>& values);    // shape [n]
  OnnxValue integer(int64_t value);                      // a scalar
  OnnxValue number(float value);                         // a scalar
  OnnxValue bytes(const std::vector<uint8_t>& values);   // shape [n]
  OnnxValue ints32(const std::vector<int32_t>& values);  // shape [n]

  // A weight whose bytes lie in the file `location` beside the model. Several may lie at the same place.
  void external(const std::string& name, OnnxType type, const std::vector<int64_t>& shape, std::string_view location,
                uint64_t offset, uint64_t length);

  // `notes` become the model's metadata.
  void save(const std::filesystem::path& path, std::span<const std::pair<std::string, std::string>> notes) const;

 private:
  OnnxValue constant(DType type, const std::vector<int64_t>& shape, std::span<const std::byte> bytes);
  std::string node_name(std::string_view type);

  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::string scope_;
};

}  // namespace retort
