// The table of operations itself, and the program that is made from it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <set>

#include "cli/options.h"
#include "core/base/json.h"
#include "recipes/operation.h"
#include "tests/cli/spawn.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using testing::Finished;
using ::testing::HasSubstr;

TEST(Operations, HaveOneNameEachAndOneForEachParameter) {
  std::set<std::string_view> names;
  for (const Operation& operation : operations()) {
    EXPECT_TRUE(names.insert(operation.name).second) << operation.name;
    EXPECT_NE(operation.run, nullptr) << operation.name;
    EXPECT_FALSE(operation.summary.empty()) << operation.name;
    EXPECT_GE(operation.version, 1) << operation.name;
    std::set<std::string_view> params;
    for (const ParamSpec& spec : operation.params) {
      EXPECT_TRUE(params.insert(spec.name).second) << operation.name << " " << spec.name;
      EXPECT_FALSE(spec.help.empty()) << operation.name << " " << spec.name;
      EXPECT_FALSE(spec.required && !spec.fallback.empty()) << operation.name << " " << spec.name;
    }
  }
}

TEST(Operations, HaveDefaultsThatPassTheirOwnChecks) {
  for (const Operation& operation : operations()) {
    std::vector<ParamSpec> optional;
    for (const ParamSpec& spec : operation.params)
      if (!spec.required) optional.push_back(spec);
    EXPECT_NO_THROW(check_params(optional, Json::object(), operation.name)) << operation.name;
  }
}

TEST(Operations, WriteByFormatOnlyWithAFormat) {
  for (const Operation& operation : operations()) {
    const bool has_format = std::any_of(operation.params.begin(), operation.params.end(),
                                        [](const ParamSpec& spec) { return spec.name == "format"; });
    EXPECT_TRUE(operation.output != OutputKind::kByFormat || has_format) << operation.name;
  }
}

class Program : public ::testing::Test {
 protected:
  Finished retort(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), RETORT_PROGRAM);
    return testing::run(arguments, directory_);
  }
  const std::string teacher_ = std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart/teacher";
  fs::path directory_ = testing::fresh_directory("program");
};

// Whether `help` has the option of that name, and not just one that begins like it.
bool shows_option(const std::string& help, const std::string& name) {
  const std::string option = "--" + name;
  for (size_t at = help.find(option); at != std::string::npos; at = help.find(option, at + 1)) {
    const size_t end = at + option.size();
    if (end == help.size() || (std::isalnum(static_cast<unsigned char>(help[end])) == 0 && help[end] != '-'))
      return true;
  }
  return false;
}

TEST_F(Program, ExplainsEveryCommand) {
  const std::string general = retort({"--help"}).out;
  for (const Operation& operation : operations()) {
    const std::string name(operation.name);
    EXPECT_THAT(general, HasSubstr("\n  " + name + " "));
    const Finished help = retort({name, "--help"});
    EXPECT_EQ(help.code, 0) << name;
    for (const ParamSpec& spec : operation.params) {
      EXPECT_NE(shows_option(help.out, std::string(spec.name)), spec.positional) << name << " " << spec.name;
    }
  }
}

TEST_F(Program, PlansTheQuickstart) {
  const Finished plan = retort({"run", std::string(RETORT_SOURCE_DIR) + "/recipes/quickstart.yaml", "--dry-run"});
  EXPECT_EQ(plan.code, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("  student              distill    to run\n"));
}

TEST_F(Program, RefusesAModelThatIsNotThere) {
  const Finished result = retort({"eval", "nowhere", "--text", "nothing"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.last_error_line(), "retort: [checkpoint] nowhere: there is no such file or directory");
}

// Given, even with the value that it would have anyway; a recipe names the line.
TEST_F(Program, RefusesOptionsThatTheMethodDoesNotRead) {
  const Finished result = retort({"quantize", teacher_, "--method", "rtn", "--samples", "128", "--output", "out"});
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.last_error_line(),
            "retort: [quantize] --samples: the method 'rtn' does not read it here; methods that do: gptq, awq, "
            "awq+gptq, imatrix. Leave it out");
  testing::write_file(directory_ / "recipe.yaml", "stages:\n  small:\n    operation: quantize\n    model: " + teacher_ +
                                                      "\n    scheme: int4-g128-sym\n    method: rtn\n    damp: 0.1\n");
  const Finished recipe = retort({"run", "recipe.yaml", "--dry-run"});
  EXPECT_EQ(recipe.code, 2);
  EXPECT_THAT(recipe.last_error_line(), HasSubstr("recipe.yaml:7: small.damp: the method 'rtn' does not read it"));
}

TEST_F(Program, RefusesOptionsOfAnotherFormat) {
  const auto error_of = [&](const char* format, std::vector<std::string> option) {
    std::vector<std::string> arguments{"export", teacher_, "--format", format, "--output", "out"};
    arguments.insert(arguments.end(), option.begin(), option.end());
    const Finished result = retort(arguments);
    EXPECT_EQ(result.code, 2);
    return result.last_error_line();
  };
  EXPECT_EQ(error_of("gguf", {"--operators", "contrib"}),
            "retort: [export] --operators: only --format onnx has it. Leave it out");
  EXPECT_THAT(error_of("gptq", {"--accuracy-level", "4"}), HasSubstr("only --format onnx has it"));
  EXPECT_THAT(error_of("onnx", {"--max-shard-size", "1MiB"}), HasSubstr("--format onnx has its weights in one file"));
  EXPECT_THAT(error_of("hf", {"--modelfile"}), HasSubstr("only --format gguf has it"));
  EXPECT_EQ(error_of("hf", {"--fallback", "f16"}),
            "retort: [export] --fallback: --format hf writes nothing as integers. Leave it out");
  EXPECT_THAT(error_of("gguf", {"--type", "f16", "--fallback", "f32"}),
              HasSubstr("--fallback: with --type nothing is written as integers"));
  EXPECT_THAT(error_of("onxn", {"--operators", "standard"}), HasSubstr("'onxn' is not a format"));
}

// What it would do nothing with, a command refuses; the default is no other.
TEST_F(Program, RefusesADeviceThatItDoesNotUse) {
  const std::set<std::string_view> on_device{"distill", "eval", "prune", "quantize", "run"};
  for (const Operation& operation : operations()) {
    EXPECT_EQ(operation.on_device, on_device.contains(operation.name)) << operation.name;
    if (operation.on_device) continue;
    std::vector<std::string> arguments{std::string(operation.name), "--device", "cuda"};
    for (const ParamSpec& spec : operation.params)
      if (spec.required && !spec.positional)
        arguments.insert(arguments.end(), {"--" + std::string(spec.name), spec.name == "format" ? "hf" : "x"});
      else if (spec.required)
        arguments.emplace_back("x");
    const Finished result = retort(arguments);
    EXPECT_EQ(result.code, 2) << operation.name;
    EXPECT_EQ(result.last_error_line(), "retort: [" + std::string(operation.name) +
                                            "] --device: this command computes on the CPU, whatever the device. "
                                            "Leave it out");
  }
  EXPECT_EQ(retort({"inspect", teacher_, "--device", "cpu"}).code, 0);
  const Finished rounding = retort({"quantize", teacher_, "--method", "rtn", "--device", "cuda:7", "--output", "out"});
  EXPECT_EQ(rounding.code, 2);
  EXPECT_THAT(rounding.last_error_line(), HasSubstr("[quantize] --device: the method 'rtn' does not read it here"));
}

TEST_F(Program, RefusesAnAccuracyLevelWithoutEffect) {
  for (const char* level : {"1", "2", "3", "5", "-1"}) {
    const Finished result =
        retort({"export", teacher_, "--format", "onnx", "--accuracy-level", level, "--output", "out"});
    EXPECT_EQ(result.code, 2) << level;
    EXPECT_THAT(result.last_error_line(), HasSubstr("--accuracy-level: "));
  }
  const Finished typed =
      retort({"export", teacher_, "--format", "onnx", "--type", "f32", "--accuracy-level", "4", "--output", "out"});
  EXPECT_EQ(typed.code, 2);
  EXPECT_THAT(typed.last_error_line(), HasSubstr("--accuracy-level: with --type nothing is written as integers"));
}

// Before the model is opened, and so before anything is written.
TEST_F(Program, ReadsTheMetricsOfACardFirst) {
  testing::write_file(directory_ / "metrics.json", R"({"loss": 1})");
  const Finished result =
      retort({"export", "nowhere", "--format", "hf", "--card", "--metrics", "metrics.json", "--output", "out"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.last_error_line(), HasSubstr("metrics.json: it is not a JSON object of `retort eval`"));
}

// A path that ends in '/' is a directory, and a name in .gguf is none.
TEST_F(Program, WritesAGgufModelIntoADirectoryThatIsAskedFor) {
  const auto exported = [&](std::vector<std::string> options) {
    std::vector<std::string> arguments{"export", teacher_, "--format", "gguf", "--type", "f16", "--output"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return retort(arguments);
  };
  for (const char* path : {"plain/", "named.gguf/", "dotted.gguf/."}) {
    ASSERT_EQ(exported({path}).code, 0);
    ASSERT_TRUE(fs::is_directory(directory_ / path)) << path;
    const fs::path file = fs::directory_iterator(directory_ / path)->path();
    EXPECT_THAT(file.filename().string(), ::testing::EndsWith("-F16.gguf"));
    EXPECT_EQ(retort({"verify", path, "--against", teacher_}).code, 0);
  }
  for (const std::vector<std::string>& option :
       {std::vector<std::string>{"--card"}, {"--modelfile"}, {"--max-shard-size", "1MiB"}}) {
    std::vector<std::string> options{"refused.gguf", "--overwrite"};
    options.insert(options.end(), option.begin(), option.end());
    const Finished result = exported(options);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.last_error_line(), "retort: [export] --output: with " + option.front() +
                                            " it is a directory, and refused.gguf names a file. "
                                            "Give a directory, such as refused");
    EXPECT_FALSE(fs::exists(directory_ / "refused.gguf"));
  }
  ASSERT_EQ(exported({"model.gguf"}).code, 0);
  const Finished own = retort({"export", "model.gguf", "--format", "gguf", "--output", "model.gguf/", "--overwrite"});
  EXPECT_EQ(own.code, 2);
  EXPECT_THAT(own.last_error_line(), HasSubstr("model.gguf/ would take the place of model.gguf, which is read"));
  EXPECT_EQ(exported({"carded.gguf/", "--card"}).code, 0);
  EXPECT_TRUE(fs::exists(directory_ / "carded.gguf/README.md"));
}

// Every kind of output takes the place of every other, and nothing else goes with them.
TEST_F(Program, ReplacesWhatCommandsWroteAndNothingElse) {
  ASSERT_EQ(retort({"quantize", teacher_, "--scheme", "int4", "--method", "rtn", "-o", "int4"}).code, 0);
  const std::vector<std::vector<std::string>> formats{{"gguf", "--modelfile", "--card"},
                                                      {"gguf", "--max-shard-size", "1MiB"},
                                                      {"onnx", "--card"},
                                                      {"gptq", "--max-shard-size", "1MiB"},
                                                      {"awq"},
                                                      {"compressed-tensors"},
                                                      {"mlx"},
                                                      {"hf"}};
  for (const auto& format : formats) {
    std::vector<std::string> arguments{"export", "int4", "-o", "out", "--overwrite", "--format"};
    arguments.insert(arguments.end(), format.begin(), format.end());
    const Finished result = retort(arguments);
    EXPECT_NE(result.code, 1) << format.front() << result.err;
  }
  EXPECT_EQ(retort({"quantize", teacher_, "--scheme", "q4_0", "--method", "rtn", "-o", "out", "--overwrite"}).code, 0);
  for (const char* name : {"notes.txt", "photos/one.jpg", "additional_chat_templates/mine.txt", "data.json"}) {
    fs::create_directories((directory_ / "out" / name).parent_path());
    testing::write_file(directory_ / "out" / name, "mine");
    const Finished result = retort({"export", "int4", "--format", "gptq", "-o", "out", "--overwrite"});
    EXPECT_EQ(result.code, 1) << name;
    const std::string first = fs::path(name).begin()->string();
    EXPECT_THAT(result.last_error_line(),
                HasSubstr("retort: [output] out: it holds '" + (first == "photos" ? first : std::string(name)) +
                          "', which no command writes there. Move that elsewhere"));
    EXPECT_EQ(testing::read_file(directory_ / "out" / name), "mine");
    fs::remove_all(directory_ / "out" / (first == "additional_chat_templates" || first == "photos" ? first : name));
  }
}

// Whichever of a user's files it is, the message is ours and names the file.
TEST_F(Program, NamesTheFileThatIsNoJson) {
  const auto expect_named = [&](const std::string& file, std::vector<std::string> arguments) {
    const Finished result = retort(std::move(arguments));
    EXPECT_EQ(result.code, 1) << file;
    EXPECT_THAT(result.last_error_line(), ::testing::MatchesRegex("retort: \\[[a-z]+\\] .*" + file + ": .*"));
    EXPECT_THAT(result.last_error_line(), HasSubstr("it is no JSON: unexpected text in line 1, column 2"));
  };
  testing::write_file(directory_ / "metrics.json", "nonsense");
  expect_named("metrics.json",
               {"export", teacher_, "--format", "hf", "--card", "--metrics", "metrics.json", "-o", "out"});
  for (const char* file : {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    fs::remove_all(directory_ / "model");
    fs::copy(teacher_, directory_ / "model");
    testing::write_file(directory_ / "model" / file, "nonsense");
    expect_named(file, {"export", "model", "--format", "onnx", "--type", "f32", "-o", "out"});
  }
  ASSERT_EQ(retort({"quantize", teacher_, "--scheme", "int4", "--method", "rtn", "-o", "int4"}).code, 0);
  ASSERT_EQ(retort({"export", "int4", "--format", "gptq", "-o", "gptq"}).code, 0);
  testing::write_file(directory_ / "gptq/quantize_config.json", "nonsense");
  expect_named("quantize_config.json", {"verify", "gptq", "--against", "int4"});
  testing::write_file(directory_ / "int4/retort.json", "nonsense");
  expect_named("retort.json", {"export", "int4", "--format", "gptq", "-o", "out"});
  fs::rename(directory_ / "gptq/model.safetensors", directory_ / "gptq/a.safetensors");
  testing::write_file(directory_ / "gptq/model.safetensors.index.json", "nonsense");
  expect_named("model.safetensors.index.json", {"export", "gptq", "--format", "awq", "-o", "out"});
}

// Ids from tokenizers 0.23.3 of Hugging Face on the same tokenizer.json.
TEST_F(Program, TokenizesAsHuggingFaceDoes) {
  testing::write_file(directory_ / "text", "It was a dark night,<|endoftext|> and\n\t\"42\" caf\xc3\xa9");
  const std::string ids = "940 329 261 1160 896 14 0 282 201 200 4 22 20 4 1065 72 1854";
  EXPECT_EQ(retort({"tokenize", teacher_, "--text", "text"}).out, ids + "\n");
  const Json json = parse_json(retort({"tokenize", teacher_, "--text", "text", "--json"}).out, "standard output");
  EXPECT_EQ(json["ids"][6], 0);
  EXPECT_EQ(json["ids"].size(), 17u);
  EXPECT_THAT(retort({"tokenize", teacher_, "--text", "text", "--plain"}).out, HasSubstr(" 14 30 94 708 "));
  testing::write_file(directory_ / "ids", "940, 329\n261,1160");
  EXPECT_EQ(retort({"tokenize", teacher_, "--decode", "--text", "ids"}).out, "It was a dark\n");
  const std::string piped = "echo -n 'It was' | " RETORT_PROGRAM " tokenize " + teacher_;
  EXPECT_EQ(testing::run({"/bin/bash", "-c", piped}, directory_).out, "940 329\n");
}

TEST_F(Program, RefusesWhatIsNoTokenId) {
  testing::write_file(directory_ / "ids", "1 2 x3");
  const Finished result = retort({"tokenize", teacher_, "--decode", "--text", "ids"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.last_error_line(), "retort: [tokenize] 'x3': not a token id");
}

}  // namespace
}  // namespace retort
