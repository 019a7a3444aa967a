// The command verify as the command line and recipes call it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "core/checkpoint/model_source.h"
#include "recipes/operation.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

// A model like the tiny one, with one value of the last norm replaced.
void write_model(const fs::path& directory, float value) {
  const testing::TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = Json::object()});
  const auto source = open_model(dir.path());
  fs::create_directories(directory);
  ModelWriter writer(directory, source->side_files());
  for (const ModelTensor& tensor : source->tensors()) {
    std::vector<float> values = source->read_f32(tensor);
    if (tensor.name == "model.norm.weight") values[3] = value;
    writer.add_f32(tensor.name, DType::kF32, tensor.shape, values);
  }
  writer.finish(source->config().json, nullptr);
}

OperationResult verify(const fs::path& artifact, const fs::path& model) {
  const Operation* operation = find_operation(operations(), "verify");
  ThreadPool pool(1);
  ProgressSink silent;
  Context context{pool, silent};
  const Json values{{"artifact", artifact.string()}, {"against", model.string()}};
  return operation->run(check_params(operation->params, values, "verify"), {}, context);
}

// Logits that are no numbers prove nothing, also where both sides have them.
TEST(Verify, TakesNoLogitsForCloseThatAreNotFinite) {
  const testing::TempDir dir;
  for (const auto& [name, value] : {std::pair("plain", 1.0f), {"nan", std::numeric_limits<float>::quiet_NaN()}})
    write_model(dir.path() / name, value);
  EXPECT_TRUE(verify(dir.path() / "plain", dir.path() / "plain").as_asked);
  const OperationResult result = verify(dir.path() / "nan", dir.path() / "nan");
  EXPECT_FALSE(result.as_asked);
  EXPECT_EQ(result.json["values_different"], 0);
}

OperationResult run(const char* name, const Json& values, const fs::path& output) {
  const Operation* operation = find_operation(operations(), name);
  ThreadPool pool(1);
  ProgressSink silent;
  Context context{pool, silent};
  return operation->run(check_params(operation->params, values, name), output, context);
}

// A fallback is not what was asked for; a type that was asked for is. Neither is called equal.
TEST(Verify, TellsRoundedValuesFromEqualOnes) {
  const testing::TempDir dir;
  testing::write_tiny_model(dir.path() / "dense", {.extra = Json::object()});
  fs::create_directories(dir.path() / "int8");
  run("quantize", {{"model", dir.path() / "dense"}, {"scheme", "int8-channel-asym"}, {"method", "rtn"}},
      dir.path() / "int8");
  const struct {
    const char* name;
    Json options;
    bool as_asked, rounded;
  } cases[] = {{"whole", {{"format", "hf"}, {"type", "f32"}}, true, false},
               {"typed", {{"format", "hf"}, {"type", "f16"}}, true, true}};
  for (const auto& [name, options, as_asked, rounded] : cases) {
    Json values = options;
    values["model"] = dir.path() / "int8";
    fs::create_directories(dir.path() / name);
    run("export", values, dir.path() / name);
    const OperationResult result = verify(dir.path() / name, dir.path() / "int8");
    EXPECT_EQ(result.as_asked, as_asked) << name;
    EXPECT_EQ(result.json["equal"], !rounded) << name;
    EXPECT_EQ(result.json["values_rounded"] > 0, rounded) << name;
    EXPECT_EQ(result.text.find("\nrounded: ") != std::string::npos, rounded) << name;
  }
}

// The text has the tensors with most rounded values, the JSON all.
TEST(Verify, NamesTheWorstOfManyRoundedTensors) {
  const testing::TempDir dir;
  testing::write_tiny_model(dir.path() / "f32", {.extra = Json::object()});
  fs::create_directories(dir.path() / "f16");
  run("export", {{"model", dir.path() / "f32"}, {"format", "hf"}, {"type", "f16"}}, dir.path() / "f16");
  const OperationResult result = verify(dir.path() / "f16", dir.path() / "f32");
  const auto lines = result.json["rounded"].get<std::vector<std::string>>();
  ASSERT_GT(lines.size(), 6u);
  const auto values = [](const std::string& line) { return std::stoll(line.substr(line.find(": ") + 2)); };
  EXPECT_TRUE(std::ranges::is_sorted(lines, std::greater(), values));
  for (size_t i = 0; i < lines.size(); ++i)
    EXPECT_EQ(result.text.find("\nrounded: " + lines[i]) != std::string::npos, i < 5) << lines[i];
  const std::string others = "\nrounded: values of " + std::to_string(lines.size() - 5) + " more tensors";
  EXPECT_NE(result.text.find(others), std::string::npos) << result.text;
}

// Embedding and head fall back in a format without a place for them.
TEST(Verify, SaysThatAFallbackIsNotAsAsked) {
  const testing::TempDir dir;
  testing::write_tiny_model(dir.path() / "dense", {.extra = Json::object()});
  for (const char* name : {"q8_0", "f16", "f32"}) fs::create_directories(dir.path() / name);
  run("quantize", {{"model", dir.path() / "dense"}, {"scheme", "q8_0"}, {"method", "rtn"}}, dir.path() / "q8_0");
  for (const std::string type : {"f16", "f32"}) {
    run("export", {{"model", dir.path() / "q8_0"}, {"format", "gptq"}, {"fallback", type}}, dir.path() / type);
    const OperationResult result = verify(dir.path() / type, dir.path() / "q8_0");
    EXPECT_EQ(result.as_asked, type == "f32");
    EXPECT_EQ(result.json["equal"], type == "f32");
    EXPECT_EQ(result.json["tensors_rounded"], type == "f32" ? 0 : 2);
    EXPECT_EQ(result.json["rounded"].size(), type == "f32" ? 0u : 2u);
  }
}

}  // namespace
}  // namespace retort
