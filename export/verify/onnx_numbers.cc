#include "export/verify/onnx_numbers.h"

#include <charconv>
#include <cstring>
#include <optional>

namespace retort {
namespace {

constexpr int64_t kF32 = 1, kI64 = 7;  // TensorProto.DataType
constexpr const char* kPlace = "model.onnx";

template <typename T>
std::vector<double> values_of(const std::string& raw) {
  std::vector<double> values;
  for (size_t at = 0; at + sizeof(T) <= raw.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, raw.data() + at, sizeof value);
    values.push_back(static_cast<double>(value));
  }
  return values;
}

// The layer that a node's name begins with: "layers.3/attention/Where".
std::optional<int64_t> layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "layers.";
  int64_t layer = 0;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  if (error != std::errc() || !std::string_view(end).starts_with("/attention/")) return std::nullopt;
  return layer;
}

class GraphNumbers {
 public:
  explicit GraphNumbers(const OnnxParts& parts) : parts_(parts) {
    for (const OnnxNode& node : parts.nodes)
      for (const std::string& output : node.outputs) producers_[output] = &node;
  }

  std::vector<ConfigNumber> collect() {
    for (const OnnxNode& node : parts_.nodes) {
      if (node.type == "Add") read_norm(node);
      if (node.type == "GroupQueryAttention") read_grouped(node);
      if (node.type == "Where" && layer_of(node.name)) windows_[*layer_of(node.name)] = window_of(node);
      if (node.type == "Where" && node.name.starts_with("positions/")) read_choice(node);
      if (node.type == "Mul") read_product(node);
    }
    add("rotary scale", rotary_scale_);
    add("layers", static_cast<double>(windows_.size()));
    std::vector<double> windows;
    for (const auto& [layer, window] : windows_) windows.push_back(window);
    numbers_.push_back({kPlace, "windows", windows});
    return std::move(numbers_);
  }

 private:
  void add(const char* name, double value) { numbers_.push_back({kPlace, name, {value}}); }

  std::optional<std::vector<double>> constant(const std::string& name) const {
    const auto found = parts_.initializers.find(name);
    if (found == parts_.initializers.end() || !found->second.location.empty()) return std::nullopt;
    if (found->second.data_type == kF32) return values_of<float>(found->second.raw);
    if (found->second.data_type == kI64) return values_of<int64_t>(found->second.raw);
    return std::nullopt;
  }
  const OnnxNode* producer(const std::string& value, const char* type) const {
    const auto found = producers_.find(value);
    return found == producers_.end() || found->second->type != type ? nullptr : found->second;
  }

  void read_norm(const OnnxNode& node) {
    if (node.inputs.size() != 2 || producer(node.inputs[0], "ReduceMean") == nullptr) return;
    if (const auto epsilon = constant(node.inputs[1])) numbers_.push_back({kPlace, "norm epsilon", *epsilon});
  }

  void read_product(const OnnxNode& node) {
    if (node.inputs.size() != 2) return;
    const auto factor = constant(node.inputs[1]);
    if (!factor || factor->empty()) return;
    if (node.name.starts_with("positions/")) numbers_.push_back({kPlace, "rotary frequencies", *factor});
    if (node.name.starts_with("turns/")) rotary_scale_ = factor->front();
    if (layer_of(node.name)) numbers_.push_back({kPlace, "attention scale", *factor});
  }
  // Between the frequencies of long sequences and those of others.
  void read_choice(const OnnxNode& node) {
    if (node.inputs.size() != 3) return;
    const auto longer = constant(node.inputs[1]), others = constant(node.inputs[2]);
    if (longer) numbers_.push_back({kPlace, "rotary frequencies of long sequences", *longer});
    if (others) numbers_.push_back({kPlace, "rotary frequencies", *others});
  }

  void read_grouped(const OnnxNode& node) {
    const auto integer = [&](const char* name) {
      const auto found = node.integers.find(name);
      return static_cast<double>(found == node.integers.end() ? -1 : found->second);
    };
    add("attention heads", integer("num_heads"));
    add("key-value heads", integer("kv_num_heads"));
    const auto scale = node.numbers.find("scale");
    add("attention scale", scale == node.numbers.end() ? 0 : scale->second);
    const double window = integer("local_window_size");
    if (const auto layer = layer_of(node.name)) windows_[*layer] = window < 0 ? 0 : window;
  }

  // What the mask of a Where bounds the distance by; 0: nothing; -1: something else.
  double window_of(const OnnxNode& where) const {
    if (where.inputs.empty()) return -1;
    const OnnxNode* both = producer(where.inputs[0], "And");
    if (both == nullptr || both->inputs.size() != 2) return 0;
    const OnnxNode* less = producer(both->inputs[1], "Less");
    if (less == nullptr || less->inputs.size() != 2) return 0;
    const auto bound = constant(less->inputs[1]);
    return bound && bound->size() == 1 ? bound->front() : -1;
  }

  const OnnxParts& parts_;
  std::map<std::string, const OnnxNode*> producers_;
  double rotary_scale_ = 1;
  std::map<int64_t, double> windows_;  // by layer
  std::vector<ConfigNumber> numbers_;
};

}  // namespace

std::vector<ConfigNumber> numbers_of_graph(const OnnxParts& parts) { return GraphNumbers(parts).collect(); }

}  // namespace retort
