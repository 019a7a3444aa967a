// Whole models by gptq: what each matrix is solved with, continuing after a stop, falling back, memory, and that it
// pays.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <regex>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "model/calibration.h"
#include "model/decoder.h"
#include "model/shards.h"
#include "quantize/calibration/second_moment.h"
#include "quantize/calibration/walk_state.h"
#include "quantize/gptq/factor.h"
#include "quantize/gptq/solver.h"
#include "quantize/memory.h"
#include "quantize/quantize.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kTeacher = RETORT_SOURCE_DIR "/recipes/quickstart/teacher";
const char* const kText = RETORT_SOURCE_DIR "/recipes/quickstart/heldout.txt";
const char* const kTrain = RETORT_SOURCE_DIR "/recipes/quickstart/train.txt";

// Throws when `limit` tensors are done, as a signal would stop the program.
class StoppingSink : public ProgressSink {
 public:
  explicit StoppingSink(int64_t limit) : limit_(limit) {}
  void update(int64_t done, std::string_view) override {
    if (done == limit_) throw Error(ErrorKind::kInterrupted, "[test] stopped: here");
  }

 private:
  int64_t limit_;
};

class QuantizeByGptq : public ::testing::Test {
 protected:
  static QuantizeOptions options(const std::string& scheme = "int4-g32-sym", const std::string& method = "gptq") {
    QuantizeOptions result;
    result.scheme = scheme;
    result.method = method;
    result.calibration = kText;
    result.samples = 12;
    result.sequence_length = 48;
    return result;
  }

  fs::path path(const std::string& name) const { return temp_.path() / name; }

  std::unique_ptr<ModelSource> model(const testing::TinyModel& shape = {}) {
    testing::write_tiny_model(path("model"), shape);
    return open_model(path("model"));
  }

  QuantizeSummary quantize(const ModelSource& source, const std::string& output, const QuantizeOptions& chosen,
                           int threads = 2, ProgressSink* sink = nullptr, uint64_t memory = 0) {
    fs::create_directories(path(output));
    ThreadPool pool(threads);
    Context context{pool, sink ? *sink : silent_, memory};
    return quantize_model(source, path(output), chosen, context);
  }

  std::string stop_after(const ModelSource& source, const std::string& output, int64_t tensors,
                         const QuantizeOptions& chosen = options()) {
    StoppingSink sink(tensors);
    return message_of([&] { quantize(source, output, chosen, 2, &sink); });
  }

  static std::string message_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  testing::TempDir temp_;
  ProgressSink silent_;
};

TEST_F(QuantizeByGptq, SecondMomentIsTheScaledSumOfOuterProducts) {
  at::manual_seed(3);
  const std::vector<at::Tensor> inputs{at::randn({2, 5, 300}), at::randn({1, 5, 300})};
  ThreadPool pool(2);
  const InputStatistics statistics = second_moment(inputs, 3, Context{pool, silent_});
  const at::Tensor rows = at::cat({inputs[0].flatten(0, 1), inputs[1].flatten(0, 1)}).to(at::kDouble);
  const at::Tensor expected = at::matmul(rows.t(), rows) * (2.0 / 3);
  const at::Tensor mine = at::from_blob(const_cast<float*>(statistics.second_moment.data()), {300, 300}, at::kFloat);
  EXPECT_LT((mine.to(at::kDouble) - expected).abs().max().item<double>(), 1e-4);
}

// Sets the matrices of a layer from the artifact, those that `until` and later inputs feed left as they are.
void set_quantized(const ModelSource& artifact, int64_t layer, Input until, RoleTensors& weights) {
  const RoleTensors all = load_layer(artifact, layer);
  for (const TensorRule& rule : artifact.config().family->tensors)
    if (is_per_layer(rule.role) && rule.part == Part::kWeight && rule.input != Input::kNone && rule.input < until)
      weights(rule.role) = all(rule.role);
}

// What a group of matrices is fed with in the model whose earlier matrices, and no later ones, are quantized; or in the
// float model.
LayerState state_at(const ModelSource& source, const ModelSource& artifact, const at::Tensor& ids, int64_t layer,
                    Input input, bool in_float_model) {
  const ModelConfig& config = source.config();
  LayerState state{embed(load_top(source), ids), {}, Input::kNone};
  for (int64_t i = 0; i <= layer; ++i) {
    RoleTensors weights = load_layer(source, i);
    const Input until = i < layer ? static_cast<Input>(static_cast<int>(Input::kFfn) + 1) : input;
    if (!in_float_model) set_quantized(artifact, i, until, weights);
    do layer_step(config, i, weights, state);
    while (state.reached != (i < layer ? Input::kNone : input));
  }
  return state;
}

// Share of the codes of `name` that differ from a solve with the given inputs; `aims` empty or the outputs to have.
double different_codes(const ModelSource& source, const ModelSource& artifact, const std::string& name,
                       const at::Tensor& input, const at::Tensor& aims, int64_t sequences, Context& context) {
  const QuantizedMatrix stored = artifact.read_quantized(artifact.at(name));
  const ModelTensor& tensor = source.at(name);
  const MatrixTask task{
      name, tensor.rows(), tensor.cols(), stored.scheme,
      [&](int64_t first, int64_t count, std::span<float> out) { source.read_f32(tensor, first, count, out); }};
  const at::Tensor rows = input.flatten(0, -2);
  const at::Tensor moment = (at::matmul(rows.t(), rows) * (2.0 / static_cast<double>(sequences))).contiguous();
  const float* values = moment.const_data_ptr<float>();
  const InputStatistics statistics{tensor.cols(), {values, values + moment.numel()}};
  const HessianFactor factor = factor_hessian(statistics, {.activation_order = true}, context);
  std::vector<std::vector<float>> missing;
  if (aims.defined()) {
    const std::vector<float> weight = source.read_f32(tensor);
    const at::Tensor matrix = at::from_blob(const_cast<float*>(weight.data()), tensor.shape, at::kFloat);
    const at::Tensor lag = (aims - at::linear(input, matrix)).flatten(0, -2);
    const at::Tensor product = (at::matmul(lag.t(), rows) * (2.0 / static_cast<double>(sequences))).contiguous();
    missing.emplace_back(product.const_data_ptr<float>(), product.const_data_ptr<float>() + product.numel());
  }
  const GptqResult result = std::move(run_gptq({&task, 1}, factor, missing, context).front());
  double different = 0;
  for (size_t i = 0; i < stored.codes.size(); ++i) different += stored.codes[i] != result.matrix.codes[i];
  return different / static_cast<double>(stored.codes.size());
}

struct Place {
  int64_t layer;
  const char* name;
  Role role;
  Input input;
};

TEST_F(QuantizeByGptq, EachMatrixIsSolvedWithWhatTheQuantizedModelFeedsIt) {
  const auto source = model({.seed = 5});
  QuantizeOptions chosen = options();
  chosen.second_pass = false;
  chosen.precision = "f32";
  quantize(*source, "out", chosen);
  const auto artifact = open_model(path("out"));
  const at::Tensor ids = calibration_windows(*source, kText, 12, 48, "test");
  ThreadPool pool(2);
  Context context{pool, silent_};
  for (const auto& [layer, name, role, input] :
       {Place{0, "model.layers.0.self_attn.o_proj.weight", Role::kAttentionOutput, Input::kAttention},
        {0, "model.layers.0.mlp.down_proj.weight", Role::kDown, Input::kFfn},
        {1, "model.layers.1.self_attn.v_proj.weight", Role::kValue, Input::kAttentionNorm},
        {2, "model.layers.2.mlp.up_proj.weight", Role::kUp, Input::kFfnNorm}}) {
    const at::Tensor seen = state_at(*source, *artifact, ids, layer, input, false).input;
    EXPECT_LT(different_codes(*source, *artifact, name, seen, {}, 12, context), 0.005) << name;
    const at::Tensor unseen = state_at(*source, *artifact, ids, layer, input, true).input;
    EXPECT_GT(different_codes(*source, *artifact, name, unseen, {}, 12, context), 0.01) << name;
  }
}

TEST_F(QuantizeByGptq, WithFloatTargetsEachMatrixFollowsTheFloatModel) {
  const auto source = model({.seed = 5});
  QuantizeOptions chosen = options();
  chosen.second_pass = false;
  chosen.precision = "f32";
  chosen.aim = "float";
  quantize(*source, "out", chosen);
  const auto artifact = open_model(path("out"));
  const at::Tensor ids = calibration_windows(*source, kText, 12, 48, "test");
  ThreadPool pool(2);
  Context context{pool, silent_};
  for (const auto& [layer, name, role, input] :
       {Place{0, "model.layers.0.self_attn.o_proj.weight", Role::kAttentionOutput, Input::kAttention},
        {1, "model.layers.1.mlp.down_proj.weight", Role::kDown, Input::kFfn},
        {1, "model.layers.1.self_attn.v_proj.weight", Role::kValue, Input::kAttentionNorm},
        {2, "model.layers.2.mlp.up_proj.weight", Role::kUp, Input::kFfnNorm}}) {
    const LayerState seen = state_at(*source, *artifact, ids, layer, input, false);
    const LayerState original = state_at(*source, *artifact, ids, layer, input, true);
    at::Tensor aims = at::linear(original.input, load_layer(*source, layer)(role));
    if (role == Role::kAttentionOutput || role == Role::kDown) aims += original.hidden - seen.hidden;
    EXPECT_LT(different_codes(*source, *artifact, name, seen.input, aims, 12, context), 0.01) << name;
    EXPECT_GT(different_codes(*source, *artifact, name, seen.input, {}, 12, context), 0.02) << name;
  }
}

TEST_F(QuantizeByGptq, OfALargeTextOnlyPlacesAreTokenized) {
  const auto source = model();
  std::string text;
  for (int line = 0; line < 20000; ++line) text += "line " + std::to_string(line) + " of a long text\n";
  std::ofstream(path("large.txt")) << text;
  const at::Tensor ids = calibration_windows(*source, path("large.txt").string(), 4, 40, "test");
  ASSERT_EQ(ids.sizes(), (std::vector<int64_t>{4, 40}));
  const auto tokenizer = source->tokenizer();
  for (int64_t i = 0; i < 4; ++i) {
    const size_t place = text.size() / 4 * static_cast<size_t>(i);
    const size_t line = i == 0 ? 0 : text.find('\n', place) + 1;
    const std::vector<int32_t> expected = tokenizer->encode(std::string_view(text).substr(line, 2000));
    for (int64_t t = 0; t < 40; ++t)
      EXPECT_EQ(ids[i][t].item<int64_t>(), expected[static_cast<size_t>(t)]) << i << " " << t;
  }
}

TEST_F(QuantizeByGptq, WindowsOfALargeTextInOneLineAreDifferentAndBeginWithACharacter) {
  const auto source = model();
  std::string text;
  for (int word = 0; word < 20000; ++word) text += std::to_string(word) + "ä ";
  std::ofstream(path("large.txt")) << text;
  const at::Tensor ids = calibration_windows(*source, path("large.txt").string(), 64, 20, "test");
  ASSERT_EQ(ids.size(0), 64);
  EXPECT_EQ(std::get<0>(at::unique_dim(ids, 0)).size(0), 64);
  for (int64_t i = 0; i < 64; ++i) {
    const at::Tensor row = ids[i].to(at::kInt).contiguous();
    const std::string piece = source->tokenizer()->decode({row.const_data_ptr<int32_t>(), 20}).substr(0, 8);
    EXPECT_NE(text.find(piece), std::string::npos) << piece;
  }
}

TEST_F(QuantizeByGptq, OptionsThatItDoesNotHeedAreRefused) {
  const auto source = model();
  QuantizeOptions chosen = options();
  chosen.grid = "max";
  EXPECT_THAT(message_of([&] { quantize(*source, "out", chosen); }), HasSubstr("--grid max is for rtn and imatrix"));
}

TEST_F(QuantizeByGptq, OnlyTheBeginningOfATextHasBos) {
  testing::write_tiny_model(path("model"), {});
  Json tokenizer = read_json_file(path("model") / "tokenizer.json");
  tokenizer["post_processor"] = parse_json(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}})",
                                           "test");
  std::ofstream(path("model") / "tokenizer.json") << tokenizer.dump();
  const auto source = open_model(path("model"));
  for (const int lines : {40, 20000}) {  // tokenized whole, and at places
    std::ofstream file(path("text.txt"));
    for (int line = 0; line < lines; ++line) file << "line " << line << " of a text\n";
    file.close();
    const at::Tensor ids = calibration_windows(*source, path("text.txt").string(), 4, 40, "test");
    EXPECT_EQ((ids == 256).sum().item<int64_t>(), 1) << lines;
    EXPECT_EQ(ids[0][0].item<int64_t>(), 256) << lines;
  }
}

TEST_F(QuantizeByGptq, BytesDoNotDependOnThreads) {
  const auto source = model();
  for (const std::string method : {"gptq", "awq", "awq+gptq"}) {
    quantize(*source, "one-" + method, options("int4-g32-sym", method), 1);
    quantize(*source, "three-" + method, options("int4-g32-sym", method), 3);
    EXPECT_EQ(digest_of_path(path("one-" + method)), digest_of_path(path("three-" + method))) << method;
    QuantizeOptions chosen = options("int4-g32-sym", method);
    chosen.outliers = 2;
    quantize(*source, "one-kept-" + method, chosen, 1);
    quantize(*source, "three-kept-" + method, chosen, 3);
    EXPECT_EQ(digest_of_path(path("one-kept-" + method)), digest_of_path(path("three-kept-" + method))) << method;
  }
}

TEST_F(QuantizeByGptq, AStoppedRunContinuesToTheSameBytes) {
  const auto source = model();
  for (const std::string method : {"gptq", "awq"}) {
    QuantizeOptions chosen = options("int4-g32-asym", method);
    chosen.outliers = method == "gptq" ? 2 : 0;
    quantize(*source, "whole-" + method, chosen);
    for (const int64_t tensors : {3, 12, 22, 29}) {
      const std::string name = "stopped-" + method + std::to_string(tensors);
      EXPECT_THAT(stop_after(*source, name, tensors, chosen), HasSubstr("stopped"));
      EXPECT_TRUE(fs::exists(path(name) / "calibration-state" / "layer-0.h5"));
      quantize(*source, name, chosen);
      EXPECT_EQ(digest_of_path(path(name)), digest_of_path(path("whole-" + method))) << method << " " << tensors;
    }
  }
}

TEST_F(QuantizeByGptq, FinishedLayersAreNotSolvedAgain) {
  const auto source = model();
  stop_after(*source, "out", 14);  // in layer 1
  const fs::path state = path("out") / "calibration-state" / "layer-1.h5";
  fs::resize_file(state, 100);
  EXPECT_THAT(message_of([&] { quantize(*source, "out", options()); }), HasSubstr("layer-1.h5"));
}

TEST_F(QuantizeByGptq, StateOfAnotherRunIsNotUsed) {
  const auto source = model();
  QuantizeOptions other = options();
  other.damp = 0.1;
  stop_after(*source, "out", 14);
  quantize(*source, "out", other);
  quantize(*source, "fresh", other);
  EXPECT_EQ(digest_of_path(path("out")), digest_of_path(path("fresh")));
}

// Sums are not the same on another kind of device, and a run has one.
TEST_F(QuantizeByGptq, StateBelongsToAKindOfDevice) {
  const auto source = model();
  const std::vector<TensorPlan> plans = plan_tensors(*source, options());
  const at::Tensor ids = calibration_windows(*source, kText, 12, 48, "test");
  ThreadPool pool(2);
  const auto key = [&](const char* device) {
    return run_key(*source, plans, options(), ids, {pool, silent_, 0, 0, device});
  };
  EXPECT_NE(key("cpu"), key("cuda"));
  EXPECT_EQ(key("cuda"), key("cuda:1"));
}

// Types that are read as f32: there are more bytes stored than are read, or fewer.
TEST_F(QuantizeByGptq, MayBeStoredInAnyType) {
  const auto source = model();
  fs::create_directories(path("wide"));
  ModelWriter writer(path("wide"), source->side_files());
  for (const ModelTensor& tensor : source->tensors()) {
    const std::vector<float> values = source->read_f32(tensor);
    const std::vector<double> wide(values.begin(), values.end());
    const std::vector<int8_t> ones(values.size(), 1);
    if (tensor.name == "model.norm.weight")
      writer.add_dense(tensor.name, DType::kI8, tensor.shape, std::as_bytes(std::span(ones)));
    else
      writer.add_dense(tensor.name, DType::kF64, tensor.shape, std::as_bytes(std::span(wide)));
  }
  writer.finish(source->config().json, nullptr);
  const auto stored = open_model(path("wide"));
  ASSERT_EQ(stored->at("model.norm.weight").stored + stored->at("model.embed_tokens.weight").stored, "i8f64");
  quantize(*stored, "from-wide", options());
  quantize(*source, "from-f32", options());
  const auto wide = open_model(path("from-wide")), narrow = open_model(path("from-f32"));
  for (const ModelTensor& tensor : narrow->tensors()) {
    const bool ones = tensor.name == "model.norm.weight";
    const std::vector<float> expected =
        ones ? std::vector<float>(static_cast<size_t>(tensor.elements()), 1.0f) : narrow->read_f32(tensor);
    EXPECT_EQ(wide->read_f32(wide->at(tensor.name)), expected) << tensor.name;
  }
}

TEST_F(QuantizeByGptq, ActivationsThatAreNotFiniteFallBackToRounding) {
  const auto source = model();
  const std::string norm = "model.layers.1.input_layernorm.weight";
  fs::create_directories(path("broken"));
  ModelWriter writer(path("broken"), source->side_files());
  for (const ModelTensor& tensor : source->tensors()) {
    std::vector<float> values = source->read_f32(tensor);
    if (tensor.name == norm) values[0] = std::numeric_limits<float>::quiet_NaN();
    writer.add_f32(tensor.name, *tensor.scheme.dense, tensor.shape, values);
  }
  writer.finish(source->config().json, nullptr);
  const QuantizeSummary summary = quantize(*open_model(path("broken")), "out", options());
  EXPECT_TRUE(summary.fell_back());
  for (const TensorReport& tensor : summary.tensors) {
    const bool after = tensor.method != "copy" && tensor.name.find("layers.0.") == std::string::npos;
    EXPECT_EQ(tensor.fallback.empty(), !after && tensor.name != norm) << tensor.name;
    EXPECT_TRUE(!after || tensor.method == "rtn") << tensor.name;
  }
}

TEST_F(QuantizeByGptq, AShortTextSaysHowManyWindowsItHas) {
  const auto source = model();
  fs::create_directories(path("texts"));
  std::ofstream(path("texts") / "short.txt") << std::string(200, 'a') + " few words";
  QuantizeOptions chosen = options();
  chosen.calibration = (path("texts") / "short.txt").string();
  quantize(*source, "short", chosen);
  const int64_t windows = calibration_windows(*source, chosen.calibration, 12, 48, "test").size(0);
  ASSERT_LT(windows, 12);
  EXPECT_EQ(read_json_file(path("short") / "retort.json")["options"]["windows"], windows);
  quantize(*source, "enough", options());
  EXPECT_EQ(read_json_file(path("enough") / "retort.json")["options"]["windows"], 12);
}

TEST_F(QuantizeByGptq, EachMatrixNamesTheMethodAsked) {
  const auto source = model();
  for (const std::string method : {"gptq", "awq", "awq+gptq"})
    for (const TensorReport& tensor : quantize(*source, method, options("int4-g32-sym", method)).tensors) {
      const bool solved = tensor.scheme == "int4-g32-sym" && tensor.name.find("layers.") != std::string::npos;
      EXPECT_TRUE(!solved || tensor.method == method) << tensor.name << " " << tensor.method;
    }
}

// Scales in `output` that bf16 does not hold, by tensor.
std::vector<std::string> with_other_scales(const fs::path& output) {
  const auto artifact = open_model(output);
  std::vector<std::string> names;
  for (const ModelTensor& tensor : artifact->tensors()) {
    if (tensor.scheme.is_dense()) continue;
    const QuantizedMatrix matrix = artifact->read_quantized(tensor);
    if (!std::ranges::all_of(matrix.scales, [](float s) { return bf16_to_f32(f32_to_bf16(s)) == s; }))
      names.push_back(tensor.name);
  }
  return names;
}

TEST_F(QuantizeByGptq, PortableScalesAreInEveryMatrix) {
  const auto source = model();
  for (const std::string method : {"gptq", "awq", "awq+gptq", "imatrix"}) {
    QuantizeOptions chosen = options("int4-g32-asym", method);
    chosen.keep = {{"*.1.mlp.gate_proj.weight", "q4_0"}};  // whose scales are f16 always
    EXPECT_GT(quantize(*source, "f16-" + method, chosen).tensors.size(), 20u);
    EXPECT_GT(with_other_scales(path("f16-" + method)).size(), 20u) << method;
    chosen.scale_type = "portable";
    quantize(*source, "portable-" + method, chosen);
    EXPECT_THAT(with_other_scales(path("portable-" + method)),
                ::testing::ElementsAre("model.layers.1.mlp.gate_proj.weight"))
        << method;
  }
}

TEST_F(QuantizeByGptq, AStoppedRunContinuesWithScalesOfItsTypeOnly) {
  const auto source = model();
  QuantizeOptions portable = options("int4-g32-asym", "awq");
  portable.scale_type = "portable";
  quantize(*source, "whole", portable);
  stop_after(*source, "out", 14, portable);
  quantize(*source, "out", portable);
  EXPECT_EQ(digest_of_path(path("out")), digest_of_path(path("whole")));
  stop_after(*source, "other", 14, options("int4-g32-asym", "awq"));
  quantize(*source, "other", portable);
  EXPECT_EQ(digest_of_path(path("other")), digest_of_path(path("whole")));
}

TEST_F(QuantizeByGptq, KeptSchemesAreSolvedTogetherWithTheOthers) {
  QuantizeOptions chosen = options("q4_0");
  chosen.keep = {{"*v_proj*", "int8-channel-sym"}, {"*layers.0.mlp.down_proj*", "bf16"}};
  const QuantizeSummary summary = quantize(*model(), "out", chosen);
  std::map<std::string, TensorReport> reports;
  for (const TensorReport& tensor : summary.tensors) reports[tensor.name] = tensor;
  const TensorReport& value = reports.at("model.layers.1.self_attn.v_proj.weight");
  EXPECT_EQ(value.scheme + " " + value.method, "int8-channel-sym gptq");
  EXPECT_EQ(reports.at("model.layers.0.mlp.down_proj.weight").scheme, "bf16");
  EXPECT_EQ(reports.at("model.layers.1.mlp.down_proj.weight").method, "gptq");
  EXPECT_EQ(reports.at("model.embed_tokens.weight").method, "rtn");
  EXPECT_EQ(reports.at("model.layers.1.mlp.down_proj.weight").details["damp"], 0.01);
}

TEST_F(QuantizeByGptq, ALimitThatCannotBeKeptIsRefusedWithTheSmallestThatCan) {
  const auto source = model();
  const std::string message = message_of([&] { quantize(*source, "out", options(), 2, nullptr, 1 << 20); });
  std::smatch found;
  ASSERT_TRUE(std::regex_search(message, found, std::regex("--memory ([0-9]+)MiB"))) << message;
  EXPECT_TRUE(fs::is_empty(path("out")));
  const uint64_t limit = std::stoull(found[1]) << 20;
  quantize(*source, "out", options(), 2, nullptr, limit);
  EXPECT_LE(peak_resident_bytes(), limit);
}

// Mean KL(float || quantized) in nats per token.
double divergence(const ModelSource& source, const ModelSource& quantized, int64_t windows, const Context& context) {
  const DecoderWeights weights = load_weights(source), changed = load_weights(quantized);
  const at::Tensor ids = calibration_windows(source, kText, windows, 256, "test");
  std::vector<double> sums(static_cast<size_t>(windows));
  run_shards(context, windows, [&](int64_t i) {
    const at::NoGradGuard no_grad;
    const at::Tensor p = at::log_softmax(forward_logits(source.config(), weights, ids.narrow(0, i, 1)), -1);
    const at::Tensor q = at::log_softmax(forward_logits(source.config(), changed, ids.narrow(0, i, 1)), -1);
    sums[static_cast<size_t>(i)] = (p.exp() * (p - q)).sum(-1).mean().item<double>();
  });
  return at::tensor(sums).mean().item<double>();
}

TEST_F(QuantizeByGptq, IsCloserToTheTeacherThanRounding) {
  const auto source = open_model(kTeacher);
  ThreadPool pool(2);
  const Context context{pool, silent_};
  for (const char* scheme : {"int4-g128-sym", "q4_0"}) {
    QuantizeOptions chosen = options(scheme);
    chosen.calibration = kTrain;
    chosen.samples = 32;
    chosen.sequence_length = 256;
    const QuantizeSummary summary = quantize(*source, std::string("gptq-") + scheme, chosen);
    EXPECT_FALSE(summary.fell_back());
    chosen.method = "rtn";
    quantize(*source, std::string("rtn-") + scheme, chosen);
    const double gptq = divergence(*source, *open_model(path(std::string("gptq-") + scheme)), 8, context);
    const double rtn = divergence(*source, *open_model(path(std::string("rtn-") + scheme)), 8, context);
    EXPECT_LT(gptq, 0.6 * rtn) << scheme << ": " << gptq << " against " << rtn;
  }
}

}  // namespace
}  // namespace retort
