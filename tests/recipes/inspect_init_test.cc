// The commands inspect and init as the command line and recipes call them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/model_source.h"
#include "recipes/operation.h"
#include "tests/support/tiny_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

OperationResult run(const char* name, const Json& values, const fs::path& output = {}) {
  const Operation* operation = find_operation(operations(), name);
  ThreadPool pool(2);
  ProgressSink silent;
  Context context{.threads = pool, .progress = silent, .seed = 3};
  return operation->run(check_params(operation->params, values, name), output, context);
}

std::vector<std::string> problems(const OperationResult& result) {
  return result.json["problems"].get<std::vector<std::string>>();
}

void cut(const fs::path& path, uintmax_t bytes) { fs::resize_file(path, fs::file_size(path) - bytes); }

TEST(Inspect, SaysWhatAModelIs) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), {.model_type = "qwen3", .dtype = DType::kF16, .extra = Json::object()});
  std::ofstream(dir.path() / "chat_template.jinja") << "{{ x }}";
  const OperationResult result = run("inspect", {{"model", dir.path().string()}});
  EXPECT_TRUE(result.as_asked);
  const Json& json = result.json;
  EXPECT_EQ(json["family"], "qwen3");
  EXPECT_EQ(json["container"], "huggingface");
  EXPECT_EQ(json["parameters"], open_model(dir.path())->config().parameters());
  EXPECT_EQ(json["scheme"], "f16");
  EXPECT_EQ(json["vocabulary"], 264);
  EXPECT_EQ(json["context_length"], 128);
  EXPECT_EQ(json["chat_template"]["bytes"], 7);
  EXPECT_EQ(json["tokenizer"]["tokens"], 258);
  EXPECT_EQ(json["problems"].size(), 0u) << json["problems"];
  EXPECT_EQ(json["tensors"].size(), open_model(dir.path())->tensors().size());
  EXPECT_EQ(json["tensors"][0]["shape"].dump(), "[264,64]");
  EXPECT_THAT(result.text, HasSubstr("model.layers.*.mlp.down_proj.weight"));
}

TEST(Inspect, ListsEveryProblemOfADamagedModel) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = Json::object()});
  Json config = read_json_file(dir.path() / "config.json");
  config["num_hidden_layers"] = 4;
  config["eos_token_id"] = 1000;
  std::ofstream(dir.path() / "config.json") << config.dump();
  const OperationResult result = run("inspect", {{"model", dir.path().string()}});
  EXPECT_FALSE(result.as_asked);
  EXPECT_EQ(result.json["family"], "llama");
  EXPECT_EQ(result.json["readable"], false);
  EXPECT_THAT(problems(result), Contains(HasSubstr("'model.layers.3.mlp.up_proj.weight' is missing")));
  EXPECT_THAT(problems(result), Contains(HasSubstr("'model.layers.3.mlp.gate_proj.weight' is missing")));
  EXPECT_THAT(problems(result), Contains(HasSubstr("special token 1000")));

  config["hidden_act"] = "gelu";
  std::ofstream(dir.path() / "config.json") << config.dump();
  cut(dir.path() / "model.safetensors", 1);
  const OperationResult worse = run("inspect", {{"model", dir.path().string()}});
  EXPECT_THAT(problems(worse), Contains(HasSubstr("gelu")));
  EXPECT_THAT(problems(worse), Contains(HasSubstr("model.safetensors")));
  EXPECT_EQ(worse.json["vocabulary"], nullptr);
  EXPECT_THROW(run("inspect", {{"model", (dir.path() / "nothing").string()}}), Error);
}

TEST(Inspect, NamesAnotherToolsQuantization) {
  const fs::path path = RETORT_SOURCE_DIR "/../shared/data/quantized/gptqmodel-gptq";
  if (!fs::exists(path)) GTEST_SKIP() << "the shared test models are absent: " << path;
  const OperationResult result = run("inspect", {{"model", path.string()}});
  EXPECT_EQ(result.json["scheme"], "int4-g128-sym");
  EXPECT_EQ(result.json["quantization"]["bits"], 4);
  EXPECT_THAT(problems(result), IsEmpty());
}

TEST(Inspect, ReadsTheTypesOfGgufFiles) {
  const fs::path path = RETORT_SOURCE_DIR "/../shared/data/quantized/gguf/books-5.8m-Q4_0.gguf";
  if (!fs::exists(path)) GTEST_SKIP() << "the shared test models are absent: " << path;
  const OperationResult result = run("inspect", {{"model", path.string()}});
  EXPECT_EQ(result.json["container"], "gguf");
  EXPECT_EQ(result.json["scheme"], "q4_0");
  EXPECT_EQ(result.json["tensors"][0]["type"], "q6_k");
}

TEST(Init, WritesAModelWithAnothersTokenizer) {
  const TempDir from, to;
  testing::write_tiny_model(from.path(), {.extra = Json::object()});
  std::ofstream(from.path() / "generation_config.json") << "{\"eos_token_id\": 5}";
  const OperationResult result =
      run("init",
          {{"config", (from.path() / "config.json").string()}, {"tokenizer", from.path().string()}, {"type", "f16"}},
          to.path());
  const auto model = open_model(to.path());
  EXPECT_EQ(result.json["parameters"], model->config().parameters());
  EXPECT_EQ(model->config().dtype, DType::kF16);
  EXPECT_EQ(model->tensors()[0].scheme.dense, DType::kF16);
  EXPECT_EQ(read_text_file(to.path() / "tokenizer.json"), read_text_file(from.path() / "tokenizer.json"));
  EXPECT_FALSE(fs::exists(to.path() / "generation_config.json"));
  const TempDir empty, other;
  EXPECT_THROW(run("init", {{"config", (from.path() / "config.json").string()}, {"tokenizer", empty.path().string()}},
                   other.path()),
               Error);
}

}  // namespace
}  // namespace retort
