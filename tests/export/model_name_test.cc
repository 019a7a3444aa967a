// Names of models and of their GGUF files, against the gguf package and the expression of ggml's naming convention.
#include "export/model_name.h"

#include <gtest/gtest.h>

#include <regex>

#include "core/base/json.h"

namespace retort {
namespace {

const Json kGolden = read_json_file(RETORT_SOURCE_DIR "/tests/golden/model_names.json");

// docs/gguf.md of ggml, "Validating Above Naming Convention", with its names of groups taken away.
bool follows_convention(const std::string& file) {
  static const std::regex convention(
      R"(^(?:(mmproj|mtp)-)?([A-Za-z0-9\s]*(?:(?:-(?:(?:[A-Za-z\s][A-Za-z0-9\s]*)|(?:[0-9\s]*)))*))-)"
      R"((?:((?:\d+x)?(?:\d+\.)?\d+[A-Za-z](?:-[A-Za-z]+(\d+\.)?\d+[A-Za-z]+)?)(?:-([A-Za-z0-9\s-]+))?)?-)"
      R"((?:(v\d+(?:\.\d+)*))(?:-((?!LoRA|vocab)[\w_]+))?(?:-(LoRA|vocab))?(?:-(\d{5}-of-\d{5}))?\.gguf$)");
  return std::regex_match(file, convention);
}

std::string text_or_empty(const Json& value) { return value.is_null() ? std::string() : value.get<std::string>(); }

std::string file_of(const ModelName& name, int64_t parameters) {
  return gguf_stem(name, parameters, kGolden["encoding"].get<std::string>()) + ".gguf";
}

TEST(ModelName, HasThePartsThatTheGgufPackageFinds) {
  ASSERT_GT(kGolden["models"].size(), 30u);
  for (const Json& model : kGolden["models"]) {
    SCOPED_TRACE(model["name"]);
    const ModelName name = parse_model_name(model["name"].get<std::string>(), model["parameters"].get<int64_t>());
    EXPECT_EQ(name.full, model["full"]);
    EXPECT_EQ(name.base, text_or_empty(model["base"]));
    EXPECT_EQ(name.size, text_or_empty(model["size"]));
    EXPECT_EQ(name.finetune, text_or_empty(model["finetune"]));
    EXPECT_EQ(name.version, text_or_empty(model["version"]));
    EXPECT_EQ(title_of(name.full), model["title"]);
    EXPECT_EQ(size_label(model["parameters"].get<int64_t>()), model["size_label"]);
  }
}

// The converter's own names follow the convention where there is a version and no dot in the base: then they are ours.
TEST(ModelName, GivesFilesTheNameOfTheConverterOrOneThatFollowsTheConvention) {
  int theirs = 0;
  for (const Json& model : kGolden["models"]) {
    const auto parameters = model["parameters"].get<int64_t>();
    const std::string converter = model["file"].get<std::string>();
    const std::string file = file_of(parse_model_name(model["name"].get<std::string>(), parameters), parameters);
    EXPECT_TRUE(follows_convention(file)) << file;
    if (!follows_convention(converter)) continue;
    EXPECT_EQ(file, converter);
    ++theirs;
  }
  EXPECT_EQ(theirs, 4);
}

TEST(ModelName, FitsTheConventionWhereTheConverterDoesNot) {
  const auto file = [](const char* id, int64_t parameters) {
    return file_of(parse_model_name(id, parameters), parameters);
  };
  EXPECT_EQ(file("meta-llama/Llama-3.2-1B-Instruct", 1235814400), "Llama-3-2-1B-Instruct-v1.0-Q4_K_M.gguf");
  EXPECT_EQ(file("microsoft/Phi-3.5-mini-instruct", 3821079552), "Phi-3-5-mini-3.8B-instruct-v1.0-Q4_K_M.gguf");
  EXPECT_EQ(file("mistralai/Mistral-Nemo-Instruct-2407", 12247782400), "Mistral-Nemo-12B-Instruct-v2407-Q4_K_M.gguf");
  EXPECT_EQ(file("a/b-7B-v0.1-dpo-v2", 7241748480), "b-7B-dpo-v0-1-v2-v1.0-Q4_K_M.gguf");
  EXPECT_EQ(file("a/x.4bit_5b", 5800000), "X-4-Bit-5-B-5.8M-v1.0-Q4_K_M.gguf");
}

TEST(ModelName, OfAnyLengthIsTakenApart) {
  const ModelName name = parse_model_name("a/" + std::string(1 << 20, '7') + "-7B", 7000000000);
  EXPECT_EQ(name.size, "7B");
  constexpr size_t kLongestFileName = 255;
  EXPECT_LT(file_of(name, 7000000000).size() + std::string("-00001-of-00002").size(), kLongestFileName);
}

}  // namespace
}  // namespace retort
