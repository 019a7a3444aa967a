// The command verify as the command line and recipes call it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace retort
