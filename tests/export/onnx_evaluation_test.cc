// The graph that export writes computes the model, and one that was changed does not: every way in which nodes can be
// connected wrongly gives other logits or an Error.
#include "export/verify/onnx_evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/files.h"
#include "export/exporter.h"
#include "onnx_subset.pb.h"
#include "runtime/engine.h"
#include "tests/export/quantized_model.h"
#include "tests/support/error_of.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::TinyModel;

ThreadPool& pool() {
  static ThreadPool threads(2);
  return threads;
}
ProgressSink g_silent;
Context g_context{pool(), g_silent};

constexpr int32_t kIds[] = {1, 77, 200, 31, 5, 140, 9, 263};

TinyModel shape(const char* family = "llama") {
  TinyModel model;
  model.model_type = family;
  model.ffn_size = 128;
  return model;
}

fs::path exported(const fs::path& path, const ModelSource& source, const char* operators,
                  std::optional<DType> type = {}) {
  fs::create_directories(path);
  export_model(source, path, {.format = "onnx", .type = type, .operators = operators}, g_context);
  return path;
}

// The largest difference to the logits of the built-in backend, of the largest logit.
double distance(const fs::path& artifact, const ModelSource& source) {
  const auto engine = load_engine(source, {.float_math = true}, g_context);
  const auto session = engine->new_session(std::size(kIds));
  std::vector<float> expected(std::size(kIds) * static_cast<size_t>(source.config().vocab_size));
  engine->forward(*session, kIds, std::size(kIds), expected);
  const std::vector<float> found = evaluate_onnx(artifact, source.config(), kIds, g_context);
  if (found.size() != expected.size()) return INFINITY;
  double most = 0, largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double here = std::abs(static_cast<double>(expected[i]) - found[i]);
    most = here <= most ? most : here;  // what is no number stays
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return most / largest;
}

constexpr double kSame = 1e-5;       // float32 on one side, in another order of additions
constexpr double kDifferent = 1e-3;  // what verify takes for different

struct Case {
  const char *family, *scheme;
  bool everything = false;
};

class Evaluation : public ::testing::TestWithParam<Case> {};

TEST_P(Evaluation, GivesTheLogitsOfTheModel) {
  for (const char* operators : {"contrib", "standard"})
    for (const int64_t head_dim : {16, 12}) {  // ONNX Runtime's attention takes whole eights
      TempDir dir;
      TinyModel model = shape(GetParam().family);
      model.window = GetParam().family == std::string("mistral") ? 3 : 0;
      model.head_dim = head_dim;
      const auto source = testing::quantized_model(dir.path(), model, GetParam().scheme, GetParam().everything);
      EXPECT_LT(distance(exported(dir.path() / "onnx", *source, operators), *source), kSame) << operators << head_dim;
    }
}

INSTANTIATE_TEST_SUITE_P(Onnx, Evaluation,
                         ::testing::Values(Case{"llama", "int4-g32-sym"}, Case{"qwen2", "int4-g16-asym", true},
                                           Case{"qwen3", "int8-channel-asym"}, Case{"mistral", "int2-g32-asym", true},
                                           Case{"llama", "int3-g64-sym"}, Case{"llama", "q8_0", true}),
                         [](const auto& info) {
                           std::string name = std::string(info.param.family) + "_" + info.param.scheme;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

// What decodes two bits with zero points by standard operators is the longest chain of those that export writes.
TEST(Evaluation, TakesATiedHeadOfEachWidth) {
  for (const char* operators : {"contrib", "standard"})
    for (const char* scheme : {"int2-g32-asym", "int4-g32-asym", "int8-g32-asym"}) {
      TempDir dir;
      TinyModel model = shape();
      model.tied = true;
      const auto source = testing::quantized_model(dir.path(), model, scheme, true);
      EXPECT_LT(distance(exported(dir.path() / "integers", *source, operators), *source), kSame) << scheme;
    }
}

TEST(Evaluation, TakesATiedHeadAndDenseTypes) {
  for (const char* operators : {"contrib", "standard"}) {
    TempDir dir;
    TinyModel model = shape();
    model.tied = true;
    model.dtype = DType::kBF16;
    const auto source = testing::quantized_model(dir.path(), model, "int4-g32-asym", true);
    EXPECT_LT(distance(exported(dir.path() / "integers", *source, operators), *source), kSame);
    const auto dense = open_model(dir.path() / "dense");
    for (const DType type : {DType::kF32, DType::kBF16})
      EXPECT_LT(distance(exported(dir.path() / name_of(type), *dense, operators, type), *dense), kSame);
  }
}

using Edit = std::function<void(onnx::GraphProto&)>;

void edit_graph(const fs::path& artifact, const Edit& edit) {
  onnx::ModelProto model;
  ASSERT_TRUE(model.ParseFromString(read_text_file(artifact / "model.onnx")));
  edit(*model.mutable_graph());
  write_text_file(artifact / "model.onnx", model.SerializeAsString());
}

// The first node of that operator below the name.
onnx::NodeProto& node(onnx::GraphProto& graph, const std::string& type, const std::string& scope) {
  for (onnx::NodeProto& node : *graph.mutable_node())
    if (node.op_type() == type && node.name().starts_with(scope)) return node;
  throw std::runtime_error("there is no " + type + " in " + scope);
}

onnx::AttributeProto& attribute(onnx::NodeProto& node, const std::string& name) {
  for (onnx::AttributeProto& attribute : *node.mutable_attribute())
    if (attribute.name() == name) return attribute;
  throw std::runtime_error("there is no " + name);
}

void add_number(onnx::NodeProto& node, const std::string& name, float value) {
  onnx::AttributeProto& added = *node.add_attribute();
  added.set_name(name);
  added.set_type(1);  // a float
  added.set_f(value);
}

void swap_inputs(onnx::NodeProto& node, int a, int b) { node.mutable_input()->SwapElements(a, b); }

// Under one set of operators, or under both.
struct Mutation {
  const char *what, *operators;
  Edit edit;
};

const std::vector<Mutation>& mutations() {
  static const std::vector<Mutation> kMutations{
      {"a product made a sum", "both", [](auto& g) { node(g, "Mul", "layers.1/ffn").set_op_type("Add"); }},
      {"a sum made a product", "both", [](auto& g) { node(g, "Add", "layers.2/ffn").set_op_type("Mul"); }},
      {"no residual", "both",
       [](auto& g) {
         onnx::NodeProto& sum = *std::find_if(g.mutable_node()->rbegin(), g.mutable_node()->rend(),
                                              [](const auto& n) { return n.name() == "layers.1/attention/Add_1"; });
         sum.set_input(0, sum.input(1));
       }},
      {"keys and values exchanged", "contrib",
       [](auto& g) { swap_inputs(node(g, "GroupQueryAttention", "layers.1"), 1, 2); }},
      {"the caches exchanged", "contrib",
       [](auto& g) { swap_inputs(node(g, "GroupQueryAttention", "layers.1"), 3, 4); }},
      {"the caches exchanged", "standard",
       [](auto& g) { node(g, "Concat", "layers.1/attention").set_input(0, "past_key_values.0.value"); }},
      {"a layer's cache in another", "both",
       [](auto& g) {
         for (onnx::NodeProto& n : *g.mutable_node())
           for (std::string& input : *n.mutable_input())
             if (input == "past_key_values.1.key") input = "past_key_values.2.key";
       }},
      {"queries and keys exchanged", "standard",
       [](auto& g) {
         onnx::NodeProto& scores = node(g, "MatMul", "layers.0/attention/MatMul_3");
         swap_inputs(scores, 0, 1);
       }},
      {"gate and up exchanged", "both",
       [](auto& g) {
         onnx::NodeProto& silu = node(g, "Sigmoid", "layers.0/ffn");
         for (onnx::NodeProto& n : *g.mutable_node())
           if (n.name().starts_with("layers.0/ffn/MatMul") && n.output(0) != silu.input(0)) {
             silu.set_input(0, n.output(0));
             return;
           }
       }},
      {"the norm of another layer", "both",
       [](auto& g) {
         for (onnx::NodeProto& n : *g.mutable_node())
           for (std::string& input : *n.mutable_input())
             if (input == "model.layers.1.input_layernorm.weight") input = "model.layers.2.input_layernorm.weight";
       }},
      {"the mean over another axis", "both",
       [](auto& g) {
         const std::string name = node(g, "ReduceMean", "layers.0").input(1);
         const int64_t other = -2;
         for (onnx::TensorProto& constant : *g.mutable_initializer())
           if (constant.name() == name) constant.set_raw_data(&other, sizeof other);
       }},
      {"a softmax over another axis", "standard",
       [](auto& g) { attribute(node(g, "Softmax", "layers.0"), "axis").set_i(2); }},
      {"another order of a transposed array", "standard",
       [](auto& g) {
         auto& order = *attribute(node(g, "Transpose", "layers.0/attention"), "perm").mutable_ints();
         order.SwapElements(1, 3);
       }},
      {"another epsilon", "both",
       [](auto& g) {
         const std::string name = node(g, "Add", "layers.0/attention").input(1);
         for (onnx::TensorProto& constant : *g.mutable_initializer())
           if (constant.name() == name) {
             const float other = 1e-1f;
             constant.set_raw_data(&other, sizeof other);
           }
       }},
      {"another scale of attention", "contrib",
       [](auto& g) { attribute(node(g, "GroupQueryAttention", "layers.0"), "scale").set_f(0.3f); }},
      {"cosines and sines exchanged", "contrib",
       [](auto& g) { swap_inputs(node(g, "RotaryEmbedding", "layers.0"), 2, 3); }},
      {"cosines and sines exchanged", "standard",
       [](auto& g) {
         std::swap(*node(g, "Cos", "turns").mutable_op_type(), *node(g, "Sin", "turns").mutable_op_type());
       }},
      {"no mask", "contrib", [](auto& g) { node(g, "Where", "mask").set_input(2, node(g, "Where", "mask").input(1)); }},
      {"no mask", "standard", [](auto& g) { node(g, "And", "mask").set_input(1, node(g, "And", "mask").input(0)); }},
      {"the future seen", "standard", [](auto& g) { node(g, "GreaterOrEqual", "mask").set_op_type("Less"); }},
      {"no input of that name", "both", [](auto& g) { node(g, "Sigmoid", "layers.0/ffn").set_input(0, "somewhere"); }},
      {"a node before what it reads", "both",
       [](auto& g) { g.mutable_node()->SwapElements(g.node_size() - 1, g.node_size() - 2); }},
      {"an operator that nobody knows", "both",
       [](auto& g) { node(g, "Sigmoid", "layers.0/ffn").set_op_type("Sigmund"); }},
      {"an operator of another domain", "both",
       [](auto& g) { node(g, "Sigmoid", "layers.0/ffn").set_domain("com.microsoft"); }},
      {"an output twice", "both", [](auto& g) { *g.add_node() = node(g, "Sigmoid", "layers.0/ffn"); }},
      {"an output that nothing gives", "both", [](auto& g) { g.mutable_output(0)->set_name("logit"); }},
      {"an input less", "both", [](auto& g) { g.mutable_input()->DeleteSubrange(2, 1); }},
      {"an input of another type", "both",
       [](auto& g) { g.mutable_input(0)->mutable_type()->mutable_tensor_type()->set_elem_type(6); }},
  };
  return kMutations;
}

TEST(Evaluation, FindsEveryChangeOfTheGraph) {
  TempDir dir;
  const auto source = testing::quantized_model(dir.path(), shape(), "int4-g32-sym");
  for (const char* operators : {"contrib", "standard"})
    for (const auto& [what, where, edit] : mutations()) {
      if (where != std::string("both") && where != std::string(operators)) continue;
      SCOPED_TRACE(std::string(what) + " " + operators);
      const fs::path path = exported(dir.path() / operators, *source, operators);
      edit_graph(path, edit);
      double found = 0;
      const std::string error = error_of([&] { found = distance(path, *source); });
      if (error == "no error")
        EXPECT_GT(found, kDifferent);
      else
        EXPECT_THAT(error, HasSubstr("[verify] "));
      fs::remove_all(path);
    }
}

TEST(Evaluation, SaysWhatIsWrongWithAGraph) {
  TempDir dir;
  const auto source = testing::quantized_model(dir.path(), shape(), "int4-g32-sym");
  const std::pair<const char*, Edit> cases[]{
      {"layers.0/ffn/Sigmoid: it reads 'somewhere', which nothing before it gives",
       [](auto& g) { node(g, "Sigmoid", "layers.0/ffn").set_input(0, "somewhere"); }},
      {"layers.0/ffn/Sigmoid: the operator 'Sigmund' is none that export writes",
       [](auto& g) { node(g, "Sigmoid", "layers.0/ffn").set_op_type("Sigmund"); }},
      {"nothing gives 'logit'", [](auto& g) { g.mutable_output(0)->set_name("logit"); }},
      {"it has the attribute 'softcap', which export does not write",
       [](auto& g) { add_number(node(g, "GroupQueryAttention", "layers.1"), "softcap", 1); }},
      {"it has the attribute 'scale', which export does not write",
       [](auto& g) { add_number(node(g, "RotaryEmbedding", "layers.1"), "scale", 2); }},
      {"it has an input 11, which export does not give",
       [](auto& g) {
         onnx::NodeProto& attention = node(g, "GroupQueryAttention", "layers.1");
         while (attention.input_size() < 12) attention.add_input("");
         attention.set_input(11, attention.input(0));
       }},
      {"it is made of weights by more operators than export writes",
       [](auto& g) {
         std::string doubled = "model.norm.weight";
         for (int i = 0; i < 30; ++i) {
           onnx::NodeProto sum;
           sum.set_op_type("Add");
           sum.add_input(doubled), sum.add_input(doubled);
           sum.add_output(doubled = "doubled" + std::to_string(i));
           g.mutable_node()->Add(std::move(sum));
         }
       }},
  };
  for (const auto& [message, edit] : cases) {
    const fs::path path = exported(dir.path() / "onnx", *source, "contrib");
    edit_graph(path, edit);
    EXPECT_THAT(error_of([&] { evaluate_onnx(path, source->config(), kIds, g_context); }), HasSubstr(message));
    fs::remove_all(path);
  }
}

}  // namespace
}  // namespace retort
