// Graphs made by hand whose sizes and numbers are wrong on purpose: each ends with an Error, in bounded time and
// memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "export/verify/onnx_evaluation.h"
#include "onnx_subset.pb.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using Sizes = std::vector<int64_t>;

constexpr int kF32 = 1, kU8 = 2, kI32 = 6, kI64 = 7;
constexpr int64_t kHuge = int64_t{1} << 62, kLong = int64_t{1} << 38;
constexpr const char* kWentThrough = "nothing gives 'logits'";  // no node gives an output

class Graph {
 public:
  Graph() {
    for (const auto& [domain, version] : {std::pair("", 21), {"com.microsoft", 1}}) {
      auto& opset = *model_.add_opset_import();
      opset.set_domain(domain);
      opset.set_version(version);
    }
    for (const char* name : {"input_ids", "attention_mask", "position_ids"}) declare(name, kI64, 2);
    for (const char* name : {"past_key_values.0.key", "past_key_values.0.value"}) declare(name, kF32, 4);
    graph().add_output()->set_name("logits");
  }

  // A weight of no elements, or of these.
  template <typename T = float>
  Graph& weight(const char* name, int type, const Sizes& dims, const std::vector<T>& values = {}) {
    auto& tensor = *graph().add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(type);
    for (const int64_t size : dims) tensor.add_dims(size);
    tensor.set_raw_data(values.data(), values.size() * sizeof(T));
    return *this;
  }
  Graph& integers(const char* name, const Sizes& values) {
    return weight(name, kI64, {static_cast<int64_t>(values.size())}, values);
  }
  // Ones in every place, as many as a graph may ask for without a byte of them.
  Graph& ones(const std::string& name, const Sizes& shape) {
    if (graph().initializer_size() == 0 || graph().initializer(0).name() != "one") weight<float>("one", kF32, {}, {1});
    return integers((name + ".shape").c_str(), shape).node("Expand", {"one", name + ".shape"}, name);
  }
  // The same, dependent on the tokens: they are computed.
  Graph& computed(const std::string& name, const Sizes& shape) {
    return ones(name + ".weights", shape)
        .integers((name + ".axes").c_str(), {0, 1})
        .node("Cast", {"input_ids"}, name + ".ids", {{"to", kF32}})
        .node("ReduceMax", {name + ".ids", name + ".axes"}, name + ".id", {{"keepdims", 0}})
        .node("Mul", {name + ".weights", name + ".id"}, name);
  }
  Graph& node(const char* type, const std::vector<std::string>& inputs, const std::string& output,
              const std::vector<std::pair<const char*, int64_t>>& attributes = {}, const char* domain = "") {
    auto& node = *graph().add_node();
    node.set_op_type(type);
    node.set_domain(domain);
    for (const std::string& input : inputs) node.add_input(input);
    node.add_output(output);
    for (const auto& [name, value] : attributes) {
      auto& attribute = *node.add_attribute();
      attribute.set_name(name);
      attribute.set_i(value);
    }
    return *this;
  }
  Graph& list(const char* name, const Sizes& values) {  // of the last node
    auto& attribute = *graph().mutable_node()->rbegin()->add_attribute();
    attribute.set_name(name);
    for (const int64_t value : values) attribute.add_ints(value);
    return *this;
  }

  // What verify says of it, beside so many bytes of weights.
  std::string error(size_t data_bytes = 0) {
    ThreadPool threads(2);
    ProgressSink silent;
    Context context{threads, silent};
    testing::TinyModel shape;
    shape.layers = 1;
    const std::string bytes = model_.SerializeAsString(), data(data_bytes, '\0');
    const OnnxFiles files{"test", std::as_bytes(std::span(bytes)), std::as_bytes(std::span(data))};
    constexpr int32_t kIds[] = {1, 2, 3};
    return error_of([&] { evaluate_onnx(files, parse_config(testing::tiny_config(shape), "test"), kIds, context); });
  }

 private:
  onnx::GraphProto& graph() { return *model_.mutable_graph(); }
  void declare(const char* name, int type, int axes) {
    auto& input = *graph().add_input();
    input.set_name(name);
    auto& tensor = *input.mutable_type()->mutable_tensor_type();
    tensor.set_elem_type(type);
    for (int i = 0; i < axes; ++i) tensor.mutable_shape()->add_dim();
  }

  onnx::ModelProto model_;
};

constexpr const char* kNoShape = "an array of it has no possible shape";

TEST(HostileGraph, HasNoShapeWhoseStridesOverflow) {
  for (const Sizes& shape :
       {Sizes{0, kHuge, kHuge}, Sizes{kHuge, 4, 0}, Sizes{0, -1}, Sizes{0, 1, 1, 1, 1, 1, 1, 1, 1}})
    EXPECT_THAT(Graph().weight("w", kF32, shape).node("Identity", {"w"}, "y").error(), HasSubstr(kNoShape));
  EXPECT_THAT(
      Graph().weight("w", kF32, {0, kHuge, kHuge}).node("Transpose", {"w"}, "y").list("perm", {2, 1, 0}).error(),
      HasSubstr(kNoShape));
  EXPECT_THAT(Graph().ones("w", {kLong, kLong}).error(), HasSubstr(kNoShape));
}

TEST(HostileGraph, AsksForNoShapeWhoseProductOverflows) {
  for (const Sizes& shape : {Sizes{kLong, kLong, -1}, Sizes{-1, -1}, Sizes{-2}, Sizes{kLong, 0x4000000}})
    EXPECT_THAT(
        Graph().weight<float>("w", kF32, {1}, {1}).integers("s", shape).node("Reshape", {"w", "s"}, "y").error(),
        HasSubstr(kNoShape));
  EXPECT_THAT(Graph().weight<float>("w", kF32, {1}, {1}).integers("s", {0, 0}).node("Reshape", {"w", "s"}, "y").error(),
              HasSubstr("it asks for an impossible shape"));
}

TEST(HostileGraph, HasNoBlocksWhoseBytesOverflow) {
  constexpr const char* kNoBlock = "its blocks are not of 16 to 256";
  for (const auto& [rows, block, message] :
       {std::tuple{kHuge, int64_t{16}, kNoShape}, {int64_t{1}, INT64_MAX, kNoBlock}, {INT64_MAX, INT64_MAX, kNoBlock}})
    EXPECT_THAT(Graph()
                    .ones("x", {1, 32})
                    .weight("codes", kU8, {0})
                    .weight("scales", kF32, {0})
                    .node("MatMulNBits", {"x", "codes", "scales"}, "y",
                          {{"K", 32}, {"N", rows}, {"bits", 4}, {"block_size", block}}, "com.microsoft")
                    .error(),
                HasSubstr(message));
}

// Integers are computed as doubles; what they cannot be is found where it arises.
TEST(HostileGraph, GivesNoIntegerThatItsTypeDoesNotHave) {
  constexpr const char* kMessage = "of 'y': it gives a number that its type does not have";
  const auto whole = [](const char* type, int64_t a, int64_t b) {
    return Graph().integers("a", {a}).integers("b", {b}).node(type, {"a", "b"}, "y").node("Add", {"y", "a"}, "z");
  };
  EXPECT_THAT(whole("Div", 1, 0).node("Range", {"y", "y", "a"}, "r").error(), HasSubstr(kMessage));
  EXPECT_THAT(whole("Div", 0, 0).node("Range", {"y", "y", "a"}, "r").error(), HasSubstr(kMessage));
  EXPECT_THAT(whole("Mul", int64_t{1} << 40, int64_t{1} << 40).node("Range", {"y", "y", "a"}, "r").error(),
              HasSubstr(kMessage));
  EXPECT_THAT(Graph()
                  .weight<int32_t>("a", kI32, {1}, {INT32_MIN})
                  .weight<int32_t>("b", kI32, {1}, {-1})
                  .node("Div", {"a", "b"}, "y")
                  .node("Gather", {"a", "y"}, "r")
                  .error(),
              HasSubstr(kMessage));
  EXPECT_THAT(Graph().integers("a", {INT64_MIN}).node("Gather", {"a", "a"}, "r").error(),
              HasSubstr("a: it gives a number that its type does not have"));
  EXPECT_THAT(Graph()
                  .weight<float>("a", kF32, {1}, {std::numeric_limits<float>::quiet_NaN()})
                  .node("Cast", {"a"}, "y", {{"to", kI64}})
                  .node("Gather", {"a", "y"}, "r")
                  .error(),
              HasSubstr(kMessage));
}

// A code is a byte, whatever it was computed from.
TEST(HostileGraph, TakesNoCodeThatIsNoByte) {
  EXPECT_THAT(Graph()
                  .weight<uint8_t>("a", kU8, {1, 16}, std::vector<uint8_t>(16, 255))
                  .weight("b", kU8, {1}, std::vector<uint8_t>{0})
                  .node("Div", {"a", "b"}, "y")
                  .weight<float>("scales", kF32, {1, 1}, {1})
                  .ones("x", {1, 16})
                  .node("MatMulNBits", {"x", "y", "scales"}, "z",
                        {{"K", 16}, {"N", 1}, {"bits", 8}, {"block_size", 16}}, "com.microsoft")
                  .error(),
              HasSubstr("Div of 'y': it gives a number that its type does not have"));
}

constexpr const char* kTooMuchWork = "computes more than its weights have need of";
constexpr size_t kData = 1 << 20;  // of weights: they allow arrays that are larger than one may be

TEST(HostileGraph, HasNoRoomWithoutBound) {
  constexpr const char* kMessage = "more than 2^24 elements";
  constexpr int64_t kWide = 1 << 25;
  EXPECT_THAT(Graph().weight("w", kF32, {0, kWide}).integers("a", {0}).node("ReduceMax", {"w", "a"}, "y").error(kData),
              HasSubstr(kMessage));
  EXPECT_THAT(Graph().ones("a", {4, 4096, 1}).ones("b", {4, 1, 4096}).node("MatMul", {"a", "b"}, "y").error(kData),
              HasSubstr(kMessage));
  EXPECT_THAT(Graph().ones("a", {kWide}).node("Softmax", {"a"}, "y").error(kData), HasSubstr(kMessage));
  EXPECT_THAT(Graph().weight("w", kF32, {0, kLong}).integers("a", {0}).node("ReduceMax", {"w", "a"}, "y").error(),
              HasSubstr(kTooMuchWork));
}

// Sizes beside a size of 0 take no time.
TEST(HostileGraph, DoesNotCountWhatIsEmpty) {
  for (const auto& [size, message] : {std::pair{int64_t{8}, kWentThrough}, {kLong, kTooMuchWork}}) {
    Graph product, softmax, rows;
    product.weight("a", kF32, {size, 0, 1}).weight("b", kF32, {size, 1, 0}).node("MatMul", {"a", "b"}, "y");
    softmax.weight("a", kF32, {size, 0}).node("Softmax", {"a"}, "y");
    rows.weight("a", kF32, {0, 1}).ones("b", {1, size}).node("MatMul", {"a", "b"}, "y");
    for (Graph* graph : {&product, &softmax, &rows}) EXPECT_THAT(graph->error(), HasSubstr(message));
  }
  const Graph attention = Graph()
                              .weight("q", kF32, {1, 1, 0})
                              .weight("kv", kF32, {1, 1, 0})
                              .weight("past", kF32, {1, 1, 0, 0})
                              .integers("last", {0})
                              .integers("total", {1})
                              .ones("bias", {1, 1, 1, 1});
  for (const int64_t heads : {int64_t{1}, kHuge, int64_t{-1}})
    EXPECT_THAT(Graph(attention)
                    .node("GroupQueryAttention", {"q", "kv", "kv", "past", "past", "last", "total", "", "", "", "bias"},
                          "y", {{"num_heads", heads}, {"kv_num_heads", 1}}, "com.microsoft")
                    .error(),
                HasSubstr("GroupQueryAttention of 'y': its attributes are not those of its cache"));
}

TEST(HostileGraph, DoesNoMoreWorkThanItsWeightsNeed) {
  Graph graph;
  graph.ones("x", {1, 4096}).ones("w", {4096, 4096}).node("MatMul", {"x", "w"}, "y");
  EXPECT_THAT(graph.error(), HasSubstr(kTooMuchWork));
  EXPECT_THAT(graph.error(kData), HasSubstr(kWentThrough));
  std::vector<std::string> many(17, "one");
  EXPECT_THAT(Graph().ones("x", {1}).node("Concat", many, "y").error(), HasSubstr("it has more inputs than a node"));
}

// What no later node reads is not in memory, and what all of them read is bounded.
TEST(HostileGraph, HoldsNoMoreThanWhatIsRead) {
  Graph unread, read;
  std::vector<std::string> all;
  for (int i = 0; i < 9; ++i) {
    all.push_back("y" + std::to_string(i));
    unread.computed(all.back(), {1 << 22});
    read.computed(all.back(), {1 << 22});
  }
  read.node("Concat", all, "z", {{"axis", 0}});
  EXPECT_THAT(unread.error(kData), HasSubstr(kWentThrough));
  EXPECT_THAT(read.error(kData), HasSubstr("its nodes have more in memory than those that export writes"));
}

}  // namespace
}  // namespace retort
