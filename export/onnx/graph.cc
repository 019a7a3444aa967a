#include "export/onnx/graph.h"

#include <map>

#include "core/base/error.h"
#include "core/base/files.h"
#include "onnx_subset.pb.h"

namespace retort {
namespace {

constexpr int64_t kIrVersion = 10, kOpset = 21;  // ONNX 1.16, ONNX Runtime 1.18

void fill_value_info(onnx::ValueInfoProto& info, const std::string& name, DType type,
                     const std::vector<OnnxDim>& shape) {
  info.set_name(name);
  auto& tensor = *info.mutable_type()->mutable_tensor_type();
  tensor.set_elem_type(static_cast<int32_t>(onnx_type(type)));
  tensor.mutable_shape();
  for (const OnnxDim& dim : shape) {
    auto& out = *tensor.mutable_shape()->add_dim();
    if (const auto* size = std::get_if<int64_t>(&dim))
      out.set_dim_value(*size);
    else
      out.set_dim_param(std::get<std::string>(dim));
  }
}

void fill_attribute(onnx::AttributeProto& out, const OnnxAttribute& attribute) {
  out.set_name(std::string(attribute.name));
  if (const auto* number = std::get_if<float>(&attribute.value)) {
    out.set_f(*number);
    out.set_type(1);
  } else if (const auto* integer = std::get_if<int64_t>(&attribute.value)) {
    out.set_i(*integer);
    out.set_type(2);
  } else {
    for (const int64_t value : std::get<std::vector<int64_t>>(attribute.value)) out.add_ints(value);
    out.set_type(7);
  }
}

void add_entry(onnx::StringStringEntryProto& entry, std::string_view key, std::string_view value) {
  entry.set_key(std::string(key));
  entry.set_value(std::string(value));
}

void add_node(onnx::GraphProto& graph, const std::string& name, std::string_view type,
              const std::vector<OnnxValue>& inputs, const std::vector<OnnxValue>& outputs,
              const std::vector<OnnxAttribute>& attributes, std::string_view domain) {
  auto& out = *graph.add_node();
  out.set_name(name);
  out.set_op_type(std::string(type));
  if (!domain.empty()) out.set_domain(std::string(domain));
  for (const OnnxValue& value : inputs) out.add_input(value);
  for (const OnnxAttribute& attribute : attributes) fill_attribute(*out.add_attribute(), attribute);
  for (const OnnxValue& value : outputs) out.add_output(value);
}

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void fill_tensor(onnx::TensorProto& tensor, const std::string& name, OnnxType type, const std::vector<int64_t>& shape) {
  tensor.set_name(name);
  tensor.set_data_type(static_cast<int32_t>(type));
  for (const int64_t size : shape) tensor.add_dims(size);
}

}  // namespace

OnnxType onnx_type(DType type) {
  switch (type) {
    case DType::kF32: return OnnxType::kF32;
    case DType::kU8: return OnnxType::kU8;
    case DType::kI8: return OnnxType::kI8;
    case DType::kI32: return OnnxType::kI32;
    case DType::kI64: return OnnxType::kI64;
    case DType::kBool: return OnnxType::kBool;
    case DType::kF16: return OnnxType::kF16;
    case DType::kBF16: return OnnxType::kBF16;
    default: fail("onnx", name_of(type), "the type has no use in a decoder");
  }
}

struct OnnxGraph::Impl {
  onnx::ModelProto model;
  onnx::GraphProto& graph = *model.mutable_graph();
  std::map<std::string, int> uses;             // of a node's base name
  std::map<std::string, OnnxValue> constants;  // by type, shape and bytes
};

OnnxGraph::OnnxGraph() : impl_(std::make_unique<Impl>()) { impl_->graph.set_name("decoder"); }
OnnxGraph::~OnnxGraph() = default;

OnnxValue OnnxGraph::input(std::string name, DType type, const std::vector<OnnxDim>& shape) {
  fill_value_info(*impl_->graph.add_input(), name, type, shape);
  return name;
}

void OnnxGraph::output(std::string name, OnnxValue value, DType type, const std::vector<OnnxDim>& shape) {
  fill_value_info(*impl_->graph.add_output(), name, type, shape);
  if (value != name) node_as("Identity", {std::move(value)}, {std::move(name)}, {});
}

std::string OnnxGraph::node_name(std::string_view type) {
  const std::string base = scope_ + "/" + std::string(type);
  const int use = impl_->uses[base]++;
  return use == 0 ? base : base + "_" + std::to_string(use);
}

void OnnxGraph::node_as(std::string_view type, const std::vector<OnnxValue>& inputs,
                        const std::vector<OnnxValue>& outputs, const std::vector<OnnxAttribute>& attributes,
                        std::string_view domain) {
  add_node(impl_->graph, node_name(type), type, inputs, outputs, attributes, domain);
}

OnnxValue OnnxGraph::node(std::string_view type, const std::vector<OnnxValue>& inputs,
                          const std::vector<OnnxAttribute>& attributes, std::string_view domain) {
  const std::string name = node_name(type);
  add_node(impl_->graph, name, type, inputs, {name}, attributes, domain);
  return name;
}

OnnxValue OnnxGraph::node(std::string_view type, std::initializer_list<OnnxValue> inputs,
                          std::initializer_list<OnnxAttribute> attributes, std::string_view domain) {
  return node(type, std::vector(inputs), std::vector(attributes), domain);
}

std::vector<OnnxValue> OnnxGraph::split(const OnnxValue& value, int64_t axis, int64_t parts) {
  const std::string name = node_name("Split");
  std::vector<OnnxValue> names;
  for (int64_t i = 0; i < parts; ++i) names.push_back(name + "." + std::to_string(i));
  add_node(impl_->graph, name, "Split", {value}, names, {{"axis", axis}, {"num_outputs", parts}}, {});
  return names;
}

OnnxValue OnnxGraph::cast(const OnnxValue& value, DType to) {
  return node("Cast", {value}, {{"to", static_cast<int64_t>(onnx_type(to))}});
}

OnnxValue OnnxGraph::constant(DType type, const std::vector<int64_t>& shape, std::span<const std::byte> bytes) {
  std::string key(name_of(type));
  for (const int64_t size : shape) key += "," + std::to_string(size);
  const std::string data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto [at, fresh] = impl_->constants.try_emplace(key + ":" + data);
  if (!fresh) return at->second;
  at->second = "constant/" + std::to_string(impl_->constants.size());
  auto& tensor = *impl_->graph.add_initializer();
  fill_tensor(tensor, at->second, onnx_type(type), shape);
  tensor.set_raw_data(data);
  return at->second;
}

void OnnxGraph::named_floats(const std::string& name, const std::vector<float>& values) {
  auto& tensor = *impl_->graph.add_initializer();
  fill_tensor(tensor, name, OnnxType::kF32, {static_cast<int64_t>(values.size())});
  const auto bytes = bytes_of(values);
  tensor.set_raw_data(bytes.data(), bytes.size());
}

OnnxValue OnnxGraph::ints(const std::vector<int64_t>& values) {
  return constant(DType::kI64, {static_cast<int64_t>(values.size())}, bytes_of(values));
}
OnnxValue OnnxGraph::integer(int64_t value) { return constant(DType::kI64, {}, bytes_of(std::vector{value})); }
OnnxValue OnnxGraph::number(float value) { return constant(DType::kF32, {}, bytes_of(std::vector{value})); }
OnnxValue OnnxGraph::ints32(const std::vector<int32_t>& values) {
  return constant(DType::kI32, {static_cast<int64_t>(values.size())}, bytes_of(values));
}
OnnxValue OnnxGraph::bytes(const std::vector<uint8_t>& values) {
  return constant(DType::kU8, {static_cast<int64_t>(values.size())}, bytes_of(values));
}

void OnnxGraph::external(const std::string& name, OnnxType type, const std::vector<int64_t>& shape,
                         std::string_view location, uint64_t offset, uint64_t length) {
  auto& tensor = *impl_->graph.add_initializer();
  fill_tensor(tensor, name, type, shape);
  tensor.set_data_location(1);
  add_entry(*tensor.add_external_data(), "location", location);
  add_entry(*tensor.add_external_data(), "offset", std::to_string(offset));
  add_entry(*tensor.add_external_data(), "length", std::to_string(length));
}

void OnnxGraph::save(const std::filesystem::path& path,
                     std::span<const std::pair<std::string, std::string>> notes) const {
  onnx::ModelProto model = impl_->model;
  model.set_ir_version(kIrVersion);
  model.set_producer_name("retort");
  for (const auto& [domain, version] : {std::pair("", kOpset), std::pair("com.microsoft", int64_t{1})}) {
    auto& opset = *model.add_opset_import();
    opset.set_domain(domain);
    opset.set_version(version);
  }
  for (const auto& [key, value] : notes) add_entry(*model.add_metadata_props(), key, value);
  write_text_file(path, model.SerializeAsString());
}

}  // namespace retort
