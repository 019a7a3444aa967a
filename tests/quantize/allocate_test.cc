// --scheme auto: the choice itself against trying everything, sizes, and whole plans without a text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include "core/base/digest.h"
#include "core/base/error.h"
#include "core/base/text.h"
#include "quantize/allocate/assign.h"
#include "quantize/allocate/choose.h"
#include "quantize/quantize.h"
#include "quantize/targets.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Items = std::vector<std::vector<Choice>>;

struct Total {
  uint64_t size = 0;
  double loss = 0;
};

Total total_of(const Items& items, const std::vector<size_t>& chosen) {
  Total total;
  for (size_t i = 0; i < items.size(); ++i) {
    total.size += items[i].at(chosen[i]).size;
    total.loss += items[i].at(chosen[i]).loss;
  }
  return total;
}

// The least loss within `limit`, of all combinations; infinite where none fits.
double least_loss(const Items& items, uint64_t limit, size_t first = 0) {
  if (first == items.size()) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (const Choice& choice : items[first])
    if (choice.size <= limit) least = std::min(least, choice.loss + least_loss(items, limit - choice.size, first + 1));
  return least;
}

Items random_items(testing::Random& random, uint64_t largest) {
  Items items(6);
  for (std::vector<Choice>& choices : items)
    for (int c = 0; c < 4; ++c) choices.push_back({1 + random.next() % largest, random.uniform()});
  return items;
}

TEST(ChooseLeastLoss, IsWhatTryingEverythingFinds) {
  testing::Random random(3);
  int possible = 0;
  for (int round = 0; round < 200; ++round) {
    const Items items = random_items(random, 50);
    const uint64_t limit = 20 + random.next() % 200;
    const auto chosen = choose_least_loss(items, limit);
    const double least = least_loss(items, limit);
    ASSERT_EQ(chosen.has_value(), std::isfinite(least));
    if (!chosen) continue;
    ++possible;
    EXPECT_LE(total_of(items, *chosen).size, limit);
    EXPECT_DOUBLE_EQ(total_of(items, *chosen).loss, least);
  }
  EXPECT_GT(possible, 100);
}

TEST(ChooseLeastLoss, KeepsLargeLimitsAndComesCloseToThem) {
  testing::Random random(4);
  for (int round = 0; round < 5; ++round) {
    const Items items = random_items(random, uint64_t{1} << 40);
    const uint64_t limit = uint64_t{3} << 40;
    const auto chosen = choose_least_loss(items, limit);
    ASSERT_TRUE(chosen);
    EXPECT_LE(total_of(items, *chosen).size, limit);
    EXPECT_GE(total_of(items, *chosen).loss, least_loss(items, limit) - 1e-9);
    EXPECT_LE(total_of(items, *chosen).loss, least_loss(items, limit - (limit >> 12)) + 1e-9);
  }
}

TEST(ChooseLeastLoss, TakesTheOnlyOnesAtTheExactLimit) {
  const Items items{{{7, 1.0}, {9, 0.5}}, {{5, 2.0}, {6, 0.1}}};
  EXPECT_EQ(choose_least_loss(items, 12), (std::vector<size_t>{0, 0}));
  EXPECT_EQ(choose_least_loss(items, 13), (std::vector<size_t>{0, 1}));
  EXPECT_EQ(choose_least_loss(items, 11), std::nullopt);
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Budget, IsBitsPerWeightOrTheSizeOfTheResult) {
  const auto beside = [](uint64_t overhead) { return [overhead](uint64_t) { return overhead; }; };
  EXPECT_EQ(parse_budget("4.5bpw", 1000, beside(10)), 4500);
  EXPECT_EQ(parse_budget("1KiB", 1000, beside(24)), 8000);
  EXPECT_EQ(parse_budget("1KiB", 1000, beside(2048)), 0);
  for (const char* size : {"", "bpw", "4,5bpw", "-4bpw", "nanbpw", "0bpw", "99bpw", "4.5 bpw", "4.5bits", "MiB", "4q"})
    EXPECT_THAT(message_of([&] { parse_budget(size, 1000, beside(0)); }), HasSubstr("Write it as 4.5bpw, 700MiB"))
        << size;
}

class Auto : public ::testing::Test {
 protected:
  std::unique_ptr<ModelSource> model(testing::TinyModel shape = {.hidden_size = 256, .ffn_size = 512}) {
    testing::write_tiny_model(path("model"), shape);
    return open_model(path("model"));
  }

  static QuantizeOptions options(const std::string& size) {
    QuantizeOptions result;
    result.scheme = "auto";
    result.size = size;
    return result;
  }

  QuantizeSummary quantize(const ModelSource& source, const QuantizeOptions& chosen, const std::string& output = "out",
                           int threads = 2) {
    fs::create_directories(path(output));
    ThreadPool pool(threads);
    Context context{pool, sink_};
    return quantize_model(source, path(output), chosen, context);
  }

  fs::path path(const std::string& name) const { return temp_.path() / name; }

  testing::TempDir temp_;
  ProgressSink sink_;
};

TEST_F(Auto, KeepsTheSizeAndUsesIt) {
  const auto source = model();
  double loss = std::numeric_limits<double>::infinity();
  for (const char* size : {"3.2bpw", "4.5bpw", "6bpw"}) {
    const QuantizeSummary summary = quantize(*source, options(size));
    EXPECT_FALSE(summary.fell_back());
    EXPECT_LE(summary.bits_per_weight, std::stod(size));
    EXPECT_GE(summary.bits_per_weight, 0.99 * std::stod(size));
    EXPECT_LT(summary.allocation["expected_loss"].get<double>(), loss);
    loss = summary.allocation["expected_loss"].get<double>();
  }
}

TEST_F(Auto, ASizeInBytesHoldsForTheWholeResult) {
  const QuantizeSummary summary = quantize(*model(), options("900KB"));
  EXPECT_LE(summary.output_bytes, 900000u);
  EXPECT_GE(summary.output_bytes, 870000u);
}

// The size of all tensors, from the files alone.
double stored_bits_per_weight(const fs::path& directory) {
  const auto stored = open_model(directory);
  double bits = 0, weights = 0;
  for (const ModelTensor& tensor : stored->tensors()) {
    bits += 8.0 * static_cast<double>(tensor.bytes);
    weights += static_cast<double>(tensor.elements());
  }
  return bits / weights;
}

TEST_F(Auto, WhatIsStoredIsWithinTheSizeToo) {
  const QuantizeSummary summary = quantize(*model(), options("4.5bpw"));
  EXPECT_LE(stored_bits_per_weight(path("out")), 4.5);
  EXPECT_GE(stored_bits_per_weight(path("out")), 4.45);
  std::map<std::string, int> counts;
  for (const TensorReport& tensor : summary.tensors)
    if (tensor.method != "copy") ++counts[tensor.scheme];
  EXPECT_EQ(counts.size(), summary.allocation["types"].size());
  for (const auto& [name, count] : counts) EXPECT_EQ(summary.allocation["types"][name]["tensors"], count) << name;
}

// All assignments of three types to the matrices of one layer.
TEST_F(Auto, NoAssignmentWithinTheSizeHasASmallerError) {
  const auto source = model({.hidden_size = 256, .ffn_size = 512, .layers = 1, .head_dim = 64});
  const std::vector<std::string> types{"q3_k", "q4_k", "q6_k"};
  std::vector<std::vector<Choice>> choices;
  for (size_t t = 0; t < types.size(); ++t) {
    QuantizeOptions uniform = options("");
    uniform.scheme = "int8";
    uniform.keep = {{"*", types[t]}};
    const QuantizeSummary summary = quantize(*source, uniform);
    size_t matrix = 0;
    for (const TensorReport& tensor : summary.tensors) {
      if (tensor.method == "copy") continue;
      if (t == 0) choices.emplace_back();
      const ModelTensor& weights = source->at(tensor.name);
      double squares = 0;
      for (const float value : source->read_f32(weights)) squares += static_cast<double>(value) * value;
      const double bits = bits_per_weight(parse_scheme(types[t]), weights.rows(), weights.cols());
      choices[matrix++].push_back(
          {static_cast<uint64_t>(bits * static_cast<double>(weights.elements())),
           (tensor.name.find("layers") == std::string::npos ? 4 : 1) * squares * std::pow(tensor.relative_error, 2)});
    }
  }
  QuantizeOptions chosen = options("4.6bpw");
  chosen.types = "q6_k,q3_k,q4_k";
  const QuantizeSummary summary = quantize(*source, chosen);
  double loss = 0;
  uint64_t weights = 0, dense = 0;
  for (const TensorReport& tensor : summary.tensors) {
    const auto count = static_cast<uint64_t>(source->at(tensor.name).elements());
    weights += count;
    if (tensor.method == "copy") dense += 32 * count;
  }
  size_t matrix = 0;
  for (const TensorReport& tensor : summary.tensors) {
    if (tensor.method == "copy") continue;
    const auto type = static_cast<size_t>(std::ranges::find(types, tensor.scheme) - types.begin());
    loss += choices[matrix++].at(type).loss;
  }
  const double least = least_loss(choices, static_cast<uint64_t>(4.6 * static_cast<double>(weights)) - dense);
  EXPECT_NEAR(loss, least, 1e-6 * least);
  EXPECT_NEAR(summary.allocation["expected_loss"].get<double>(), least, 1e-6 * least);
}

TEST_F(Auto, TargetsGetTypesThatTheyHold) {
  const auto source = model({.hidden_size = 256, .ffn_size = 512, .head_dim = 64});
  for (const char* target : {"llama.cpp", "vllm", "onnxruntime", "mlx"}) {
    QuantizeOptions chosen = options("6.5bpw");
    chosen.target = target;
    chosen.strict = true;
    const QuantizeSummary summary = quantize(*source, chosen);
    EXPECT_TRUE(summary.verdict.at("loads").get<bool>()) << target;
    EXPECT_LE(summary.bits_per_weight, 6.5) << target;
    EXPECT_GT(summary.allocation["types"].size(), 1u) << target;
    std::map<std::string, std::set<std::string>> fused;  // by layer and input
    for (const TensorReport& tensor : summary.tensors)
      for (const char* part : {"attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.gate_proj", "mlp.up_proj"})
        if (const size_t at = tensor.name.find(part); at != std::string::npos)
          fused[tensor.name.substr(0, at + 4)].insert(tensor.scheme);
    for (const auto& [layer, schemes] : fused) EXPECT_TRUE(schemes.size() == 1 || !find_target(target).fuses) << layer;
  }
}

// They stay as wide as they are, and the others make up for that.
TEST_F(Auto, MatricesThatCannotBeRoundedCountAsTheyAreKept) {
  const auto whole = model({.hidden_size = 256, .ffn_size = 512, .dtype = DType::kBF16});
  const fs::path directory = temp_.path() / "damaged";
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  for (const float value : {std::nanf(""), 1e30f}) {
    fs::create_directories(directory);
    ModelWriter writer(directory, whole->side_files());
    for (const ModelTensor& tensor : whole->tensors()) {
      std::vector<float> values = whole->read_f32(tensor);
      if (tensor.name == name) values.back() = value;
      writer.add_f32(tensor.name, *tensor.scheme.dense, tensor.shape, values);
    }
    writer.finish(whole->config().json, nullptr);
    const auto source = open_model(directory);
    const QuantizeSummary summary = quantize(*source, options("5bpw"));
    EXPECT_LE(summary.bits_per_weight, 5);
    EXPECT_TRUE(summary.fell_back());
    for (const TensorReport& tensor : summary.tensors) {
      EXPECT_EQ(tensor.fallback.empty(), tensor.name != name) << tensor.name << tensor.fallback;
      EXPECT_TRUE(tensor.name != name || tensor.scheme == "bf16") << tensor.scheme;
    }
    fs::remove_all(directory);
  }
}

TEST_F(Auto, WhatATargetHoldsInNoTypeStaysIn16Bit) {
  const auto source = model({.hidden_size = 96, .ffn_size = 192});
  QuantizeOptions chosen = options("17bpw");
  chosen.target = "vllm";
  EXPECT_THAT(message_of([&] { quantize(*source, chosen); }), HasSubstr("no matrix that auto could choose"));
}

TEST_F(Auto, ASizeThatCannotBeKeptIsRefusedWithTheSmallestThatCan) {
  const auto source = model();
  for (const char* size : {"2bpw", "100KiB"}) {
    const std::string message = message_of([&] { quantize(*source, options(size)); });
    ASSERT_THAT(message, HasSubstr("The smallest size that can be kept is ")) << size;
    const std::string smallest = message.substr(message.rfind(' ') + 1);
    EXPECT_NO_THROW(quantize(*source, options(smallest))) << smallest;
  }
}

// A file of tensors above 16 MiB keeps room for a header that is not known yet.
TEST_F(Auto, ASizeInBytesHoldsForLargeFilesToo) {
  const auto source = model({.hidden_size = 1024, .ffn_size = 2560, .layers = 2, .head_dim = 64});
  QuantizeOptions chosen = options("1KiB");
  chosen.types = "q8_0";
  chosen.grid = "max";
  const std::string message = message_of([&] { quantize(*source, chosen); });
  chosen.size = message.substr(message.rfind(' ') + 1);
  const QuantizeSummary summary = quantize(*source, chosen);
  EXPECT_GT(summary.output_bytes, uint64_t{17} << 20);
  EXPECT_LE(summary.output_bytes, parse_size(chosen.size, "--size"));
}

TEST_F(Auto, KeepGoesFirstAndWidthsOfNoSuperBlockGetOtherBlocks) {
  const auto source = model({.hidden_size = 256, .ffn_size = 192});
  QuantizeOptions chosen = options("5bpw");
  chosen.keep = {{"*v_proj.weight", "q8_0"}};
  const QuantizeSummary summary = quantize(*source, chosen);
  EXPECT_FALSE(summary.fell_back());
  EXPECT_LE(summary.bits_per_weight, 5);
  for (const TensorReport& tensor : summary.tensors) {
    if (tensor.name.find("v_proj") != std::string::npos) {
      EXPECT_EQ(tensor.scheme, "q8_0");
    }
    if (tensor.name.find("down_proj") != std::string::npos) {
      EXPECT_EQ(tensor.scheme.find("_k"), std::string::npos) << tensor.scheme;
    }
  }
}

TEST_F(Auto, IntegerTypesLeaveEmbeddingAndHead) {
  QuantizeOptions chosen = options("7bpw");
  chosen.types = "int8-g64-sym,int4-g64-sym";
  const QuantizeSummary summary = quantize(*model(), chosen);
  int four = 0, eight = 0;
  for (const TensorReport& tensor : summary.tensors) {
    four += tensor.scheme == "int4-g64-sym";
    eight += tensor.scheme == "int8-g64-sym";
    if (tensor.name == "model.embed_tokens.weight") {
      EXPECT_EQ(tensor.scheme, "f16");
    }
  }
  EXPECT_GT(four, 0);
  EXPECT_GT(eight, 0);
  EXPECT_LE(summary.bits_per_weight, 7);
}

TEST_F(Auto, OptionsThatDoNotGoTogetherAreRefused) {
  const auto source = model();
  const auto refused = [&](const char* scheme, const char* size, const char* types, const char* why) {
    QuantizeOptions chosen = options(size);
    chosen.scheme = scheme;
    chosen.types = types;
    EXPECT_THAT(message_of([&] { quantize(*source, chosen); }), HasSubstr(why));
  };
  refused("auto", "", "", "--scheme auto needs one");
  refused("q4_0", "4bpw", "", "--size: it goes with --scheme auto");
  refused("q4_0", "", "q4_0", "--types: it goes with --scheme auto");
  refused("auto", "4bpw", "q4_0,q9_0", "'q9_0'");
  refused("auto", "4bpw", "q4_0,f16", "'f16'");
  refused("auto", "4bpw", "q4_0,q4_x", "--types: 'q4_x' is not a scheme. The nearest valid one is q4_");
  refused("auto", "4bpw", "q4_0,int8", "beside other schemes");
}

TEST_F(Auto, BytesDoNotDependOnThreads) {
  const auto source = model();
  quantize(*source, options("4.2bpw"), "one", 1);
  quantize(*source, options("4.2bpw"), "three", 3);
  EXPECT_EQ(digest_of_path(path("one")), digest_of_path(path("three")));
}

}  // namespace
}  // namespace retort
