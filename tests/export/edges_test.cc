// Models at the edge of what a format can say: mixed widths, nothing left as integers, tokenizers with more rules than
// GGUF has, files beside the model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "export/exporter.h"
#include "export/provenance.h"
#include "export/verifier.h"
#include "onnx_subset.pb.h"
#include "tests/export/quantized_model.h"
#include "tests/support/error_of.h"
#include "tests/support/memory_source.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::quantized_model;
using ::testing::SizeIs;
using testing::TempDir;
using testing::TinyModel;

class Edges : public ::testing::Test {
 protected:
  // Rows of whole super-blocks.
  TinyModel shape_{.hidden_size = 256, .ffn_size = 512, .layers = 2, .head_dim = 64};

  fs::path place(const std::string& name) const { return temp_.path() / name; }
  ExportSummary export_to(const std::string& name, const ModelSource& source, const ExportOptions& options) {
    if (export_format(options.format).directory) fs::create_directories(place(name));
    return export_model(source, place(name), options, context_);
  }
  std::string error_of_export(const ModelSource& source, const ExportOptions& options) {
    return error_of([&] { export_to("refused", source, options); });
  }
  VerifyResult verify(const std::string& name, const ModelSource& source) {
    return verify_artifact(place(name), source, context_);
  }

  TempDir temp_;
  ThreadPool threads_{1};
  ProgressSink silent_;
  Context context_{threads_, silent_};
};

// Gives the matrices with `part` in their name random codes in another scheme.
testing::Edit in_scheme(const std::string& part, const std::string& scheme) {
  return [=](const std::string& name, QuantizedMatrix& matrix) {
    testing::Random random(5);
    if (name.find(part) != std::string::npos)
      matrix = testing::random_quantized(parse_scheme(scheme), matrix.rows, matrix.cols, random);
  };
}

// The file has one width: what is narrower than that moves its zero points, what is as wide keeps them.
TEST_F(Edges, KeepTheZeroPointsOfMatricesOfAnotherWidth) {
  for (const char* format : {"awq", "gptq"})
    for (const auto& [most, some] : {std::pair("int3-g32-sym", "int4-g32-asym"), {"int4-g32-sym", "int3-g32-asym"}}) {
      const std::string name = std::string(format) + most;
      const auto source = quantized_model(place("of-" + name), shape_, most, false, in_scheme("down_proj", some));
      const ExportSummary made = export_to(name, *source, {.format = format, .type = {}, .fallback = DType::kF32});
      const VerifyResult result = verify(name, *source);
      EXPECT_TRUE(result.equal()) << name << ::testing::PrintToString(result.differences);
      EXPECT_THAT(made.fallbacks, SizeIs(name == "gptqint3-g32-sym" ? 2 : 0)) << name;
    }
}

// What would be left has no integers for the settings to describe.
TEST_F(Edges, RefuseAFallbackOfEveryMatrix) {
  const std::pair<const char*, const char*> cases[]{
      {"mlx", "q6_k"}, {"gptq", "q5_0"}, {"compressed-tensors", "q5_0"}, {"awq", "int8-g32-sym"}};
  for (const auto& [format, scheme] : cases) {
    const auto source = quantized_model(place(format), shape_, scheme, true);
    EXPECT_THAT(error_of_export(*source, {.format = format, .type = {}, .fallback = DType::kF32}),
                HasSubstr("none of its integers has a place in " + std::string(format) + ". Use --format hf"));
    EXPECT_TRUE(fs::is_empty(place("refused"))) << "something was written";
  }
}

// transformers keeps further chat templates in a directory of their own.
TEST_F(Edges, KeepSideFilesThatLieInADirectory) {
  quantized_model(temp_.path(), shape_, "int4-g32-sym");
  fs::create_directory(place("quantized/additional_chat_templates"));
  write_text_file(place("quantized/additional_chat_templates/tools.jinja"), "{{ tools }}");
  const auto source = open_model(place("quantized"));
  for (const std::string format : {"hf", "onnx", "gptq"}) {
    export_to(format, *source, {.format = format, .type = {}});
    EXPECT_EQ(read_text_file(place(format + "/additional_chat_templates/tools.jinja")), "{{ tools }}");
    EXPECT_TRUE(verify(format, *source).equal());
  }
}

// transformers leaves the place that it loaded a tokenizer from; nobody else has that directory.
TEST_F(Edges, LeaveOutWhereTheTokenizerLay) {
  quantized_model(temp_.path(), shape_, "int4-g32-sym");
  const Json plain = read_json_file(place("quantized/tokenizer_config.json"));
  const auto check = [&](const std::string& name, const Json& more, const Json& kept) {
    SCOPED_TRACE(name);
    Json settings = plain, expected = plain;
    settings.update(more);
    expected.update(kept);
    const std::string text = settings.dump(3);
    write_text_file(place("quantized/tokenizer_config.json"), text);
    const auto source = open_model(place("quantized"));
    for (const std::string format : {"hf", "onnx", "gptq"}) {
      const std::string directory = name + format, file = directory + "/tokenizer_config.json";
      export_to(directory, *source, {.format = format, .type = {}});
      EXPECT_EQ(read_json_file(place(file)), expected);
      EXPECT_EQ(read_text_file(place(file)) == text, kept == more);
      EXPECT_TRUE(verify(directory, *source).equal());
      Json other = expected;
      other["model_max_length"] = 7;
      write_text_file(place(file), other.dump());
      EXPECT_FALSE(verify(directory, *source).equal());
    }
  };
  const Json path{{"name_or_path", "/home/alice/model"}, {"vocab_file", "/home/alice/model/vocab.json"}};
  check("path", path, Json::object());
  const std::string huge = R"(  "model_max_length": 1000000000000000019884624838656,)";
  write_text_file(place("quantized/tokenizer_config.json"),
                  "{\n" + huge + "\n  \"name_or_path\": \"/home/alice/model\",\n" + plain.dump(2).substr(2));
  export_to("huge", *open_model(place("quantized")), {.format = "hf", .type = {}});
  EXPECT_THAT(read_text_file(place("huge/tokenizer_config.json")), ::testing::HasSubstr(huge));
  EXPECT_THAT(read_text_file(place("huge/tokenizer_config.json")), ::testing::Not(::testing::HasSubstr("alice")));
  const Json repository{{"name_or_path", "someone/model"}, {"vocab_file", "vocab.json"}};
  check("repository", repository, repository);
}

class Tokenizers : public Edges {
 protected:
  void SetUp() override { quantized_model(temp_.path(), {.ffn_size = 128, .layers = 1}, "int4-g32-sym"); }
  // tokenizer.json (or another file) of the model, or of an artifact.
  void edit(const std::string& name, const std::function<void(Json&)>& change, const char* file = "tokenizer.json") {
    const fs::path path = place(name) / file;
    Json json = read_json_file(path);
    change(json);
    write_text_file(path, json.dump());
  }
  std::unique_ptr<ModelSource> model() { return open_model(place("quantized")); }
};

// GGUF cannot say it; what the file gives to a text that is NFC already must still be the same.
TEST_F(Tokenizers, OfNfcAreComparedOnNfcTextInGguf) {
  edit("quantized", [](Json& json) { json["normalizer"] = {{"type", "NFC"}}; });
  const auto source = model();
  export_to("a.gguf", *source, {.format = "gguf", .type = {}});
  const VerifyResult result = verify("a.gguf", *source);
  EXPECT_TRUE(result.equal()) << ::testing::PrintToString(result.differences);
  EXPECT_THAT(result.notes, ElementsAre(HasSubstr("without making it NFC first")));
  // A directory keeps the normalizer: there it is a difference.
  export_to("gptq", *source, {.format = "gptq", .type = {}});
  edit("gptq", [](Json& json) { json["normalizer"] = nullptr; });
  EXPECT_THAT(verify("gptq", *source).differences, Contains(HasSubstr("other token ids")));
}

TEST_F(Tokenizers, OfAnotherNormalFormDifferInGguf) {
  export_to("a.gguf", *model(), {.format = "gguf", .type = {}});
  edit("quantized", [](Json& json) { json["normalizer"] = {{"type", "NFKC"}}; });
  EXPECT_THAT(verify("a.gguf", *model()).differences, Contains(HasSubstr("other token ids")));
}

// BOS in front and EOS behind: what GGUF's add_bos_token and add_eos_token can say.
TEST_F(Tokenizers, ThatAddMoreThanBosAndEosHaveNoPlaceInGguf) {
  const auto adding = [](std::vector<std::string> before, std::vector<std::string> after) {
    Json single = Json::array();
    for (const std::string& token : before) single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    for (const std::string& token : after) single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    const auto special = [](const char* token, int id) {
      return Json{{"id", token}, {"ids", Json::array({id})}, {"tokens", Json::array({token})}};
    };
    return [=](Json& json) {
      json["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", single},
                                {"pair", single},
                                {"special_tokens", {{"<s>", special("<s>", 256)}, {"</s>", special("</s>", 257)}}}};
    };
  };
  edit("quantized", adding({"<s>"}, {"</s>"}));
  export_to("both.gguf", *model(), {.format = "gguf", .type = {}});
  EXPECT_TRUE(verify("both.gguf", *model()).equal());
  const std::pair<std::vector<std::string>, std::vector<std::string>> others[]{
      {{"<s>", "<s>"}, {}}, {{"</s>"}, {}}, {{"<s>"}, {"<s>"}}, {{}, {"</s>", "</s>"}}, {{"</s>", "<s>"}, {"</s>"}}};
  for (const auto& [before, after] : others) {
    edit("quantized", adding(before, after));
    EXPECT_THAT(error_of_export(*model(), {.format = "gguf", .type = {}}), HasSubstr("no tokenizer that works like"));
  }
}

// Token 0 is a token like any other.
TEST_F(Tokenizers, NameTheEndOfTextWhereNoConfigurationDoes) {
  for (const char* key : {"bos_token_id", "eos_token_id"})
    edit(
        "quantized", [&](Json& json) { json.erase(key); }, "config.json");
  export_to("onnx", *model(), {.format = "onnx", .type = {}});
  const Json named = read_json_file(place("onnx/genai_config.json"))["model"];
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) EXPECT_EQ(named[key], 257) << key;
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) fs::remove(place("quantized") / file);
  export_to("without", *model(), {.format = "onnx", .type = {}});
  const Json silent = read_json_file(place("without/genai_config.json"))["model"];
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) EXPECT_FALSE(silent.contains(key)) << key;
}

// JSON is UTF-8: what a file says of itself would end a run where it is written.
TEST_F(Tokenizers, ThatAGgufFileDescribesInOtherBytesAreRefused) {
  export_to("a.gguf", *model(), {.format = "gguf", .type = {}});
  std::string bytes = read_text_file(place("a.gguf"));
  const std::string key = "retort.tokenizer_digest";
  bytes[bytes.find(key) + key.size() + sizeof(uint32_t) + sizeof(uint64_t)] = '\xff';
  write_text_file(place("a.gguf"), bytes);
  EXPECT_THAT(error_of([&] { open_model(place("a.gguf")); }), HasSubstr("not UTF-8"));
}

TEST_F(Edges, VerifyRefusesALimitThatItCannotKeep) {
  const auto source = quantized_model(place("model"), shape_, "int4-g32-sym");
  export_to("hf", *source, {.format = "hf", .type = {}});
  context_.memory_limit = 1 << 20;
  EXPECT_THAT(error_of([&] { verify("hf", *source); }), HasSubstr("above the limit of 1.0 MiB. Give --memory "));
}

// Sizes that are right but for bits that a product of 64 bits loses.
TEST_F(Edges, VerifyRefusesOnnxShapesWhoseProductsWrapAround) {
  const auto source = quantized_model(place("model"), shape_, "int4-g32-sym");
  export_to("onnx", *source, {.format = "onnx", .type = {}});
  onnx::ModelProto graph;
  ASSERT_TRUE(graph.ParseFromString(read_text_file(place("onnx/model.onnx"))));
  for (auto& weight : *graph.mutable_graph()->mutable_initializer())
    if (weight.name() == "model.layers.0.mlp.up_proj.weight.codes")
      weight.set_dims(2, weight.dims(2) + (int64_t{1} << 61));
  write_text_file(place("onnx/model.onnx"), graph.SerializeAsString());
  EXPECT_THAT(error_of([&] { verify("onnx", *source); }), HasSubstr("another width, block or shape"));
}

// As the text says, wherever the command runs.
TEST_F(Edges, TellTheNameOfARepositoryFromAPath) {
  const auto base_of = [](const Json& name) {
    ModelConfig config;
    config.json = {{"_name_or_path", name}};
    return base_model_of(config);
  };
  const fs::path before = fs::current_path();
  fs::create_directories(place("someone/model"));
  fs::current_path(temp_.path());
  const std::string longest = "a/" + std::string(1 << 20, 'b');
  for (const std::string& name : {std::string("someone/model"), std::string("Some-1/mo_del.v2"), longest})
    EXPECT_EQ(base_of(name), name);
  fs::current_path(before);
  for (const char* name :
       {"", "model", "/home/model", "./model", "../model", "~/model", "a/b/c", "a/", "a/b c", "a/.b"})
    EXPECT_EQ(base_of(name), "") << name;
  EXPECT_EQ(base_of(1), "");
}

TEST_F(Edges, ReadAReportWhoseLengthIsNoNumber) {
  const auto source = quantized_model(place("model"), shape_, "int4-g32-sym");
  const auto calibration = [&](const Json& length) {
    const Json options{{"samples", 8}, {"sequence_length", length}};
    write_text_file(source->path() / "retort.json", Json{{"options", options}}.dump());
    return provenance_of(*source).calibration;
  };
  EXPECT_EQ(calibration(64), "8 windows of 64 tokens");
  EXPECT_EQ(calibration("long"), "8 windows");
}

// As llm-compressor says it, and however the model came here.
TEST_F(Edges, SayInWhichOrderTheColumnsWereSolved) {
  const auto source = quantized_model(place("model"), shape_, "int4-g32-sym");
  const auto exported = [&](const std::string& name, const ModelSource& model, const char* format) {
    export_to(name, model, {.format = format, .type = {}});
    return open_model(place(name));
  };
  const auto order_in = [&](const std::string& name) {
    return read_json_file(
        place(name + "/config.json"))["quantization_config"]["config_groups"]["group_0"]["weights"]["actorder"];
  };
  const char* kFormat = "compressed-tensors";
  for (const auto& [method, order, expected] :
       std::vector<std::tuple<const char*, const char*, Json>>{{"gptq", "activation", "static"},
                                                               {"awq+gptq", "activation", "static"},
                                                               {"gptq", "none", nullptr},
                                                               {"awq", "activation", nullptr}}) {
    const std::string name = std::string(method) + "-" + order;
    const Json report{{"method", method}, {"options", {{"group_order", order}}}};
    write_text_file(source->path() / "retort.json", report.dump());
    const auto first = exported(name, *source, kFormat);
    EXPECT_EQ(order_in(name), expected) << name;
    exported(name + "-again", *first, kFormat);
    EXPECT_EQ(order_in(name + "-again"), expected) << name;
    exported(name + "-from-gptq", *exported(name + "-gptq", *source, "gptq"), kFormat);
    EXPECT_EQ(order_in(name + "-from-gptq"), expected) << name;
  }
  for (const auto& [said, expected] : std::vector<std::pair<Json, Json>>{
           {"static", "static"}, {"weight", "static"}, {nullptr, nullptr}, {"unknown", nullptr}}) {
    Json config = read_json_file(place("gptq-activation/config.json"));
    config.erase("retort");
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["actorder"] = said;
    write_text_file(place("gptq-activation/config.json"), config.dump());
    const std::string name = "of-other-programs-" + said.dump();
    exported(name, *open_model(place("gptq-activation")), kFormat);
    EXPECT_EQ(order_in(name), expected) << said;
  }
}

// llama.cpp's numbers: Q3_K_M has q4_k, and q5_k in some layers; Q3_K_L has q5_k alone.
TEST_F(Edges, NumberTheMixesOfQ3K) {
  const auto down = in_scheme("down_proj", "q5_k"), output = in_scheme("o_proj", "q4_k");
  const testing::Edit both = [&](const std::string& name, QuantizedMatrix& matrix) {
    down(name, matrix);
    output(name, matrix);
  };
  for (const auto& [edit, number] : {std::pair(testing::Edit(), 11), {both, 12}, {down, 13}}) {
    const std::string name = std::to_string(number);
    const auto source = quantized_model(place("of-" + name), shape_, "q3_k", false, edit);
    export_to(name, *source, {.format = "gguf", .type = {}});
    EXPECT_EQ(GgufFile(place(name)).header().integer("general.file_type"), number);
  }
}

}  // namespace
}  // namespace retort
