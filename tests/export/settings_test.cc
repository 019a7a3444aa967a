// verify finds a changed setting on which the programs that load an artifact act, wherever it stands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/files.h"
#include "export/exporter.h"
#include "export/provenance.h"
#include "export/verifier.h"
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

std::unique_ptr<ModelSource> source_in(const fs::path& directory, const testing::Edit& edit = {}) {
  TinyModel shape;
  shape.ffn_size = 128;
  shape.extra = {{"pad_token_id", 0}, {"rope_parameters", {{"rope_theta", 20000.0}, {"rope_type", "default"}}}};
  testing::quantized_model(directory, shape, "int4-g32-sym", false, edit);
  write_text_file(directory / "quantized/generation_config.json", R"({"temperature": 0.5})");
  return open_model(directory / "quantized");
}

fs::path exported(const fs::path& path, const ModelSource& source, const std::string& format) {
  fs::create_directories(path);
  export_model(source, path, {.format = format, .type = {}}, g_context);
  return path;
}

struct Row {
  const char *format, *file;
  const char* place;  // a JSON pointer
  Json value;         // null: the key is removed
  const char* line;   // a part of what verify says
};

const std::vector<Row>& rows() {
  static const Json kNone = Json::array();
  static const char *const kUp = "model.layers.0.mlp.up_proj", *const kConfig = "config.json",
                           *const kGenai = "genai_config.json";
  static const std::vector<Row> kRows{
      {"hf", kConfig, "/eos_token_id", 3, "eos_token_id: 3 instead of 257"},
      {"hf", kConfig, "/pad_token_id", 3, "pad_token_id: 3 instead of 0"},
      {"hf", kConfig, "/pad_token_id", {}, "pad_token_id: nothing instead of 0"},
      {"hf", kConfig, "/model_type", "mistral", "model_type: \"mistral\" instead of \"llama\""},
      {"hf", kConfig, "/dtype", "bfloat16", "rounded when it is loaded, for config.json asks for bf16"},
      {"gptq", kConfig, "/eos_token_id", {257, 3}, "eos_token_id: [257,3] instead of 257"},
      {"gptq", kConfig, "/pad_token_id", 3, "pad_token_id"},
      {"gptq", kConfig, "/quantization_config/desc_act", true, "desc_act: true, and in quantize_config.json: false"},
      {"gptq", kConfig, "/quantization_config/sym", false, "sym: false, and in quantize_config.json: true"},
      {"gptq", kConfig, "/quantization_config/group_size", 64, "group_size: 64, and in quantize_config.json: 32"},
      {"awq", kConfig, "/eos_token_id", 3, "eos_token_id"},
      {"awq", kConfig, "/quantization_config/zero_point", false, "zero_point: false, and in quantize_config.json"},
      {"awq", kConfig, "/quantization_config/modules_to_not_convert", kNone, "modules_to_not_convert"},
      {"compressed-tensors", kConfig, "/quantization_config/ignore", kNone, "ignore: lm_head is dense, and not listed"},
      {"compressed-tensors", kConfig, "/quantization_config/ignore", {"lm_head", kUp}, "ignore: model.layers.0.mlp.up"},
      {"compressed-tensors", kConfig, "/dtype", "bfloat16", "rounded when it is loaded"},
      {"mlx", kConfig, "/eos_token_id", 3, "eos_token_id"},
      {"mlx", kConfig, "/rope_theta", 20001.0, "rope_theta, rope_scaling: rotary frequencies"},
      {"mlx", kConfig, "/quantization_config/bits", 8, "bits: 8, and in quantization: 4"},
      {"onnx", kConfig, "/eos_token_id", 3, "config.json: eos_token_id"},
      {"onnx", kGenai, "/model/type", "phi3", "type: \"phi3\" instead of \"llama\""},
      {"onnx", kGenai, "/model/eos_token_id", 3, "eos_token_id: 3 instead of 257"},
      {"onnx", kGenai, "/model/bos_token_id", 3, "bos_token_id: 3 instead of 256"},
      {"onnx", kGenai, "/model/pad_token_id", 3, "pad_token_id: 3 instead of 0"},
      {"onnx", kGenai, "/model/decoder/filename", "other.onnx", "filename: \"other.onnx\""},
      {"onnx", kGenai, "/model/decoder/inputs/input_ids", "ids", "input_ids: \"ids\" instead of \"input_ids\""},
      {"onnx", kGenai, "/model/decoder/inputs/past_key_names", "past.%d", "past_key_names: \"past.%d\""},
      {"onnx", kGenai, "/model/decoder/outputs/logits", "scores", "logits: \"scores\" instead of \"logits\""},
      {"onnx", kGenai, "/search/past_present_share_buffer", false, "past_present_share_buffer: false instead of true"},
      {"onnx", kGenai, "/search/temperature", 1.5, "temperature: 1.5 instead of 0.5"},
  };
  return kRows;
}

void edit(const fs::path& file, const Row& row) {
  Json json = read_json_file(file);
  const Json::json_pointer place(row.place);
  ASSERT_TRUE(json.contains(place)) << row.place;
  if (row.value.is_null())
    json[place.parent_pointer()].erase(place.back());
  else
    json[place] = row.value;
  write_text_file(file, json.dump());
}

TEST(Settings, AreFoundWhereTheyDiffer) {
  TempDir dir;
  const auto source = source_in(dir.path());
  for (const Row& row : rows()) {
    SCOPED_TRACE(std::string(row.format) + " " + row.place);
    const fs::path path = dir.path() / row.format;
    if (!fs::exists(path)) exported(path, *source, row.format);
    const VerifyResult before = verify_artifact(path, *source, g_context);
    ASSERT_TRUE(before.equal()) << ::testing::PrintToString(before.differences);
    const std::string whole = read_text_file(path / row.file);
    edit(path / row.file, row);
    const VerifyResult result = verify_artifact(path, *source, g_context);
    EXPECT_GT(result.settings_different + result.numbers_different, 0);
    EXPECT_THAT(result.differences, ::testing::Contains(HasSubstr(row.line)));
    EXPECT_FALSE(result.faithful());
    write_text_file(path / row.file, whole);
  }
}

// Programs write the same settings in another order.
TEST(Settings, HaveNoOrder) {
  TempDir dir;
  const auto source = source_in(dir.path());
  const fs::path path = exported(dir.path() / "gptq", *source, "gptq");
  Json config = read_json_file(path / "config.json"), settings = read_json_file(path / "quantize_config.json");
  config["quantization_config"]["meta"] = {{"mse", 0.0}, {"uri", "here"}};
  settings["meta"] = {{"uri", "here"}, {"mse", 0.0}};
  write_text_file(path / "config.json", config.dump());
  write_text_file(path / "quantize_config.json", settings.dump());
  EXPECT_THAT(verify_artifact(path, *source, g_context).differences, ::testing::IsEmpty());
}

// transformers takes the matrices for quantized that a list of GPTQ names, and all where there is none.
TEST(Settings, NameWhatIsQuantizedBesideDenseMatrices) {
  TempDir dir;
  TinyModel shape;
  shape.ffn_size = 144;  // no whole groups of 32: down_proj is dense
  const auto source = testing::quantized_model(dir.path(), shape, "int4-g32-sym");
  const fs::path path = exported(dir.path() / "gptq", *source, "gptq");
  const char* key = "/modules_in_block_to_quantize";
  const Json lists = read_json_file(path / "quantize_config.json")[Json::json_pointer(key)];
  ASSERT_EQ(lists.size(), 1u);
  EXPECT_EQ(lists[0].size(), static_cast<size_t>(6 * source->config().layers));
  ASSERT_TRUE(verify_artifact(path, *source, g_context).equal());
  const auto differences = [&](const Json& value) {
    edit(path / "config.json", {"gptq", "", "/quantization_config/modules_in_block_to_quantize", value, ""});
    edit(path / "quantize_config.json", {"gptq", "", key, value, ""});
    return verify_artifact(path, *source, g_context).differences;
  };
  const std::vector<const char*> ends{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"};
  EXPECT_THAT(differences(Json::array({ends})), ::testing::IsEmpty());  // as others write it
  EXPECT_THAT(differences(Json::array({Json::array({"up_proj", "down_proj"})})),
              ::testing::IsSupersetOf({HasSubstr("model.layers.0.mlp.down_proj is dense"),
                                       HasSubstr("model.layers.1.self_attn.q_proj is missing")}));
  EXPECT_THAT(differences({}), ::testing::Contains(HasSubstr("model.layers.0.mlp.down_proj is dense")));
}

// Keys of compressed-tensors say nothing in the settings of another method, whatever is in them.
TEST(Settings, OfAnotherMethodAreNotRead) {
  TempDir dir;
  const auto source = source_in(dir.path());
  const fs::path path = exported(dir.path() / "gptq", *source, "gptq");
  Json config = read_json_file(path / "config.json");
  for (const Json& weights : {Json::array(), Json("static"), Json{{"actorder", "static"}}}) {
    config["quantization_config"]["config_groups"] = {{"group_0", {{"weights", weights}}}};
    write_text_file(path / "config.json", config.dump());
    EXPECT_THAT(provenance_of(*open_model(path)).group_order, ::testing::IsEmpty());
  }
}

// Two files that agree may both be wrong.
TEST(Settings, AgreeWithTheTensors) {
  TempDir dir;
  const auto scatter = [](const std::string&, QuantizedMatrix& matrix) { testing::scatter_groups(matrix); };
  const auto source = source_in(dir.path(), scatter);
  const fs::path path = exported(dir.path() / "gptq", *source, "gptq");
  ASSERT_TRUE(verify_artifact(path, *source, g_context).equal());
  edit(path / "config.json", {"gptq", "", "/quantization_config/desc_act", false, ""});
  edit(path / "quantize_config.json", {"gptq", "", "/desc_act", false, ""});
  EXPECT_THAT(verify_artifact(path, *source, g_context).differences,
              ::testing::Contains(HasSubstr("desc_act: false, and the columns of")));
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

// What one command alone reads, the others name.
TEST(Artifacts, AreNamedWhereTheyAreNotRead) {
  TempDir dir;
  const auto source = source_in(dir.path());
  for (const auto& [format, what] : {std::pair("mlx", "quantized for MLX, which `retort verify` alone reads"),
                                     std::pair("onnx", "an ONNX model, which `retort verify` alone reads")}) {
    const fs::path path = exported(dir.path() / format, *source, format);
    EXPECT_THAT(error_of([&] { open_model(path); }), HasSubstr(what));
  }
  EXPECT_THAT(error_of([&] { verify_artifact(dir.path() / "quantized", *source, g_context); }),
              HasSubstr("no exported artifact"));
}

// What is dense although it is linear is in the lists.
TEST(Settings, ListTheModulesThatFellBack) {
  TempDir dir;
  TinyModel shape;
  shape.ffn_size = 172;
  const auto source = testing::quantized_model(dir.path(), shape, "int4-channel-sym");
  const fs::path path = dir.path() / "gptq";
  fs::create_directories(path);
  export_model(*source, path, {.format = "gptq", .type = {}, .fallback = DType::kF32}, g_context);
  ASSERT_TRUE(verify_artifact(path, *source, g_context).equal());
  for (const char* file : {"config.json", "quantize_config.json"}) {
    Json json = read_json_file(path / file);
    Json& settings = json.contains("quantization_config") ? json["quantization_config"] : json;
    settings["dynamic"].erase("-:^model\\.layers\\.1\\.mlp\\.down_proj$");
    write_text_file(path / file, json.dump());
  }
  EXPECT_THAT(verify_artifact(path, *source, g_context).differences,
              ElementsAre(HasSubstr("down_proj$ is dense, and not listed")));
}

TEST(Settings, ListTheMatricesThatFellBack) {
  TempDir dir;
  TinyModel shape;
  shape.ffn_size = 172;
  const auto source = testing::quantized_model(dir.path(), shape, "int4-channel-sym");
  const fs::path path = dir.path() / "gptq";
  fs::create_directories(path);
  export_model(*source, path, {.format = "gptq", .type = {}, .fallback = DType::kF16}, g_context);
  ASSERT_TRUE(verify_artifact(path, *source, g_context).faithful());
  ASSERT_TRUE(verify_artifact(path, *open_model(path), g_context).equal());
  const Json whole = read_json_file(path / "config.json");
  const auto differences = [&](const std::function<void(Json&)>& edit) {
    Json config = whole;
    edit(config["retort"]["fallbacks"]);
    write_text_file(path / "config.json", config.dump());
    const VerifyResult result = verify_artifact(path, *source, g_context);
    EXPECT_TRUE(result.fell_back());
    EXPECT_EQ(result.faithful(), result.differences.empty());
    return result.differences;
  };
  EXPECT_THAT(differences([](Json& listed) { listed.erase(1); }),
              ElementsAre("fallbacks: model.layers.0.mlp.up_proj.weight is rounded, and not listed"));
  EXPECT_THAT(differences([](Json& listed) { listed.push_back("model.layers.1.self_attn.q_proj.weight: odd"); }),
              ElementsAre("fallbacks: model.layers.1.self_attn.q_proj.weight is listed, and did not fall back"));
  EXPECT_THAT(differences([](Json& listed) { listed.push_back("model.layers.9.mlp.up_proj.weight"); }),
              ElementsAre(HasSubstr("model.layers.9.mlp.up_proj.weight is listed")));
  EXPECT_THAT(differences([](Json& listed) { listed.clear(); }), ::testing::IsEmpty());
}

}  // namespace
}  // namespace retort
