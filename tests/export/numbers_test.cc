// verify finds a changed number of the configuration wherever an artifact keeps it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "export/exporter.h"
#include "export/verifier.h"
#include "export/verify/onnx_numbers.h"
#include "tests/export/quantized_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::TinyModel;

ThreadPool& pool() {
  static ThreadPool threads(1);
  return threads;
}
ProgressSink g_silent;
Context g_context{pool(), g_silent};

std::unique_ptr<ModelSource> source_in(const fs::path& directory, int64_t window = 32) {
  TinyModel shape;
  shape.model_type = window == 0 ? "llama" : "mistral";
  shape.window = window;
  shape.ffn_size = 128;
  shape.extra["rope_parameters"] = {{"rope_theta", 20000.0}, {"rope_type", "linear"}, {"factor", 2.0}};
  return testing::quantized_model(directory, shape, "int4-g32-sym");
}

fs::path exported(const fs::path& path, const ModelSource& source, const char* format, const char* operators) {
  if (export_format(format).directory) fs::create_directories(path);
  export_model(source, path, {.format = format, .type = {}, .operators = operators}, g_context);
  return path;
}

using Edit = std::function<void(Json&)>;

void edit_json(const fs::path& path, const Edit& edit) {
  Json json = read_json_file(path);
  edit(json);
  write_text_file(path, json.dump());
}

// Every number that an edit changes alone, by what verify calls it.
const std::map<std::string, Edit>& config_edits() {
  static const std::map<std::string, Edit> kEdits{
      {"norm epsilon", [](Json& c) { c["rms_norm_eps"] = 1e-4; }},
      {"rotary frequencies", [](Json& c) { c["rope_parameters"]["rope_theta"] = 20001.0; }},
      {"windows", [](Json& c) { c["sliding_window"] = 33; }},
      {"context length", [](Json& c) { c["max_position_embeddings"] = 256; }},
      {"attention heads", [](Json& c) { c["num_attention_heads"] = 8; }},
      {"key-value heads", [](Json& c) { c["num_key_value_heads"] = 1; }},
      {"BOS token", [](Json& c) { c["bos_token_id"] = 3; }},
  };
  return kEdits;
}

void expect_found(const fs::path& artifact, const ModelSource& source, const std::string& what) {
  const VerifyResult result = verify_artifact(artifact, source, g_context);
  EXPECT_EQ(result.numbers_different, 1) << what;
  EXPECT_EQ(result.codes_different + result.scales_different + result.values_different, 0) << what;
  EXPECT_THAT(result.differences, ElementsAre(HasSubstr(what)));
  EXPECT_FALSE(result.equal());
}

TEST(ConfigNumbers, OfConfigJson) {
  TempDir dir;
  const auto source = source_in(dir.path());
  for (const char* format : {"hf", "gptq", "onnx"}) {
    const fs::path path = exported(dir.path() / format, *source, format, "contrib");
    EXPECT_TRUE(verify_artifact(path, *source, g_context).equal()) << format;
    const std::string whole = read_text_file(path / "config.json");
    for (const auto& [what, edit] : config_edits()) {
      edit_json(path / "config.json", edit);
      expect_found(path, *source, what);
      write_text_file(path / "config.json", whole);
    }
  }
}

TEST(ConfigNumbers, OfGenaiConfig) {
  TempDir dir;
  const auto source = source_in(dir.path());
  const fs::path path = exported(dir.path() / "onnx", *source, "onnx", "contrib");
  edit_json(path / "genai_config.json", [](Json& c) { c["model"]["decoder"]["head_size"] = 8; });
  expect_found(path, *source, "genai_config.json: size of a head: 8 instead of 16");
}

// The one place where `file` has these bytes gets others.
void replace_once(const fs::path& file, const std::string& from, const std::string& to) {
  std::string bytes = read_text_file(file);
  const size_t at = bytes.find(from);
  ASSERT_NE(at, std::string::npos);
  ASSERT_EQ(bytes.find(from, at + 1), std::string::npos);
  write_text_file(file, bytes.replace(at, from.size(), to));
}

template <typename T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

TEST(ConfigNumbers, OfGgufMetadata) {
  TempDir dir;
  const auto source = source_in(dir.path(), 0);
  const std::string f32 = bytes_of(uint32_t{6}), u32 = bytes_of(uint32_t{4});
  const std::pair<std::string, std::pair<std::string, std::string>> edits[]{
      {"norm epsilon", {"layer_norm_rms_epsilon" + f32, bytes_of(1e-4f)}},
      {"rotary frequencies", {"rope.freq_base" + f32, bytes_of(20001.0f)}},
      {"rotary frequencies", {"rope.scaling.factor" + f32, bytes_of(4.0f)}},
      {"context length", {"llama.context_length" + u32, bytes_of(uint32_t{64})}},
  };
  for (const auto& [what, edit] : edits) {
    const fs::path path = exported(dir.path() / "a.gguf", *source, "gguf", "contrib");
    const std::string bytes = read_text_file(path);
    const size_t at = bytes.find(edit.first);
    ASSERT_NE(at, std::string::npos) << edit.first;
    replace_once(path, bytes.substr(at, edit.first.size() + 4), edit.first + edit.second);
    const VerifyResult result = verify_artifact(path, *source, g_context);
    EXPECT_EQ(result.numbers_different, 1) << what;
    EXPECT_THAT(result.differences, ::testing::Contains(HasSubstr(what)));
  }
}

// What has no place for a window says a context that ends with it: the export tells so, and verify asks for no other.
TEST(ConfigNumbers, EndTheContextWithTheWindow) {
  TempDir dir;
  const auto source = source_in(dir.path());
  const char* note = "context: 32 tokens instead of 128";
  for (const char* format : {"gguf", "mlx", "gptq"}) {
    const fs::path path = dir.path() / format;
    if (export_format(format).directory) fs::create_directories(path);
    const ExportSummary made = export_model(*source, path, {.format = format, .type = {}}, g_context);
    const VerifyResult result = verify_artifact(path, *source, g_context);
    EXPECT_TRUE(result.equal()) << ::testing::PrintToString(result.differences);
    for (const auto& notes : {made.notes, result.notes})
      EXPECT_EQ(std::ranges::count_if(notes, [&](const auto& text) { return text.starts_with(note); }),
                export_format(format).windows ? 0 : 1)
          << format;
  }
  edit_json(dir.path() / "mlx/config.json", [](Json& c) { c["max_position_embeddings"] = 128; });
  expect_found(dir.path() / "mlx", *source, "context length within the window: 128 instead of 32");
  const std::string key = "context_length" + bytes_of(uint32_t{4});
  replace_once(dir.path() / "gguf", key + bytes_of(uint32_t{32}), key + bytes_of(uint32_t{64}));
  expect_found(dir.path() / "gguf", *source, "context length within the window: 64 instead of 32");
}

// The BOS token of a GGUF file is the tokenizer's, whatever config.json names.
TEST(ConfigNumbers, LeaveBosToTheTokenizerOfAGgufFile) {
  TempDir dir;
  source_in(dir.path(), 0);
  edit_json(dir.path() / "quantized/config.json", [](Json& config) { config["bos_token_id"] = 1; });
  const auto source = open_model(dir.path() / "quantized");
  const fs::path path = exported(dir.path() / "a.gguf", *source, "gguf", "contrib");
  EXPECT_TRUE(verify_artifact(path, *source, g_context).equal());
  const std::string key = "ggml.bos_token_id" + bytes_of(uint32_t{4});
  replace_once(path, key + bytes_of(uint32_t{256}), key + bytes_of(uint32_t{3}));
  const VerifyResult result = verify_artifact(path, *source, g_context);
  EXPECT_FALSE(result.tokenizer_equal);
  EXPECT_THAT(result.differences, ElementsAre(HasSubstr("another BOS token")));
}

TEST(ConfigNumbers, OfAnOnnxGraph) {
  TempDir dir;
  const auto source = source_in(dir.path());
  for (const char* operators : {"contrib", "standard"}) {
    const fs::path path = exported(dir.path() / operators, *source, "onnx", operators);
    const std::string whole = read_text_file(path / "model.onnx");
    const auto expect = [&](const std::string& from, const std::string& to, const char* what) {
      replace_once(path / "model.onnx", from, to);
      expect_found(path, *source, what);
      write_text_file(path / "model.onnx", whole);
    };
    const std::vector<float> rope = rope_frequencies(source->config());
    expect(bytes_of(rope[3]), bytes_of(rope[3] * 1.001f), "rotary frequencies");
  }
}

// The values of a name, one element for each place that says one.
std::vector<std::vector<double>> values_of(const std::vector<ConfigNumber>& numbers, std::string_view name) {
  std::vector<std::vector<double>> values;
  for (const ConfigNumber& number : numbers)
    if (number.name == name) values.push_back(number.values);
  return values;
}

TEST(ConfigNumbers, FollowTheNodesOfAGraph) {
  TempDir dir;
  const auto source = source_in(dir.path());
  for (const char* operators : {"contrib", "standard"}) {
    const fs::path path = exported(dir.path() / operators, *source, "onnx", operators);
    const MappedFile model(path / "model.onnx");
    OnnxParts parts = parse_onnx_parts(model.bytes(), "model.onnx");
    const auto numbers = numbers_of_graph(parts);
    EXPECT_THAT(values_of(numbers, "windows"), ElementsAre(ElementsAre(32, 32, 32)));
    EXPECT_THAT(values_of(numbers, "layers"), ElementsAre(ElementsAre(3)));
    EXPECT_THAT(values_of(numbers, "attention scale"), ::testing::SizeIs(3));
    EXPECT_THAT(values_of(numbers, "norm epsilon"), ::testing::SizeIs(7));
    EXPECT_THAT(number_differences(numbers, source->config()), ::testing::IsEmpty());
    for (OnnxNode& node : parts.nodes)
      if (node.name == "layers.1/attention/GroupQueryAttention")
        node.integers["local_window_size"] = 31;
      else if (node.name == "layers.1/attention/Where")
        node.inputs[0] = "somewhere else";
    EXPECT_THAT(number_differences(numbers_of_graph(parts), source->config()), ElementsAre(HasSubstr("windows")));
  }
}

// What a hostile graph leaves out is not what the model has.
TEST(ConfigNumbers, OfANodeWithoutInputs) {
  OnnxNode where;
  where.name = "layers.0/attention/Where";
  where.type = "Where";
  OnnxParts parts;
  parts.nodes = {where};
  EXPECT_THAT(values_of(numbers_of_graph(parts), "windows"), ElementsAre(ElementsAre(-1)));
}

}  // namespace
}  // namespace retort
