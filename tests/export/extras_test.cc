// What lies beside and around a GGUF model: its shards, Ollama's Modelfile, and the model card.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "export/card.h"
#include "export/exporter.h"
#include "export/gguf_end_tokens.h"
#include "export/modelfile.h"
#include "export/verifier.h"
#include "tests/export/quantized_model.h"
#include "tests/support/error_of.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempDir;

const fs::path kTeacher = RETORT_SOURCE_DIR "/recipes/quickstart/teacher";

class Extras : public ::testing::Test {
 protected:
  ExportSummary export_to(const fs::path& path, const ExportOptions& options) {
    return export_model(*source_, path, options, context_);
  }

  TempDir temp_;
  ThreadPool threads_{1};
  ProgressSink silent_;
  Context context_{threads_, silent_};
  std::unique_ptr<ModelSource> source_ =
      testing::quantized_model(temp_.path() / "model", {.ffn_size = 128}, "q4_0", true);
};

std::vector<fs::path> files_in(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

class Shards : public Extras {
 protected:
  static constexpr uint64_t kLimit = 20000;
  void SetUp() override {
    fs::create_directory(shards_);
    export_to(shards_, {.format = "gguf", .type = {}, .max_shard_bytes = kLimit});
    files_ = files_in(shards_);
  }
  std::string error_of_opening(const fs::path& path) {
    try {
      open_model(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  fs::path shards_ = temp_.path() / "shards";
  std::vector<fs::path> files_;
};

TEST_F(Shards, HoldTheSameTensorsAsOneFile) {
  export_to(temp_.path() / "one.gguf", {.format = "gguf", .type = {}});
  const GgufFile one(temp_.path() / "one.gguf"), split(files_.front());
  ASSERT_GT(files_.size(), 2u);
  ASSERT_EQ(split.header().tensors.size(), one.header().tensors.size());
  for (size_t i = 0; i < one.header().tensors.size(); ++i) {
    const GgufTensorInfo &expected = one.header().tensors[i], &found = split.header().tensors[i];
    EXPECT_EQ(found.name, expected.name);
    EXPECT_TRUE(std::ranges::equal(split.data(found), one.data(expected))) << found.name;
  }
  EXPECT_TRUE(verify_artifact(shards_, *source_, context_).equal());
  EXPECT_TRUE(verify_artifact(files_.front(), *source_, context_).equal());
}

TEST_F(Shards, KeepUnderTheLimitAndAreNamedAsLlamaCppDoes) {
  const std::string ending = "-of-0000" + std::to_string(files_.size()) + ".gguf";
  ASSERT_LT(files_.size(), 10u);
  for (size_t i = 0; i < files_.size(); ++i) {
    EXPECT_THAT(files_[i].filename().string(), HasSubstr("-0000" + std::to_string(i + 1) + ending));
    uint64_t bytes = 0;
    const MappedFile file(files_[i]);
    const GgufHeader header = parse_gguf(file.bytes(), "shard");
    for (const GgufTensorInfo& info : header.tensors) bytes += info.bytes;
    EXPECT_TRUE(bytes <= kLimit || header.tensors.size() == 1) << files_[i];
  }
}

TEST_F(Shards, ThatAreMissingOrInterchangedAreErrors) {
  EXPECT_THAT(error_of_opening(files_[1]), HasSubstr("not the first file"));
  fs::rename(files_[1], temp_.path() / "away");
  EXPECT_THAT(error_of_opening(files_[0]), HasSubstr("missing"));
  fs::copy_file(files_[2], files_[1]);
  EXPECT_THAT(error_of_opening(files_[0]), HasSubstr("another"));
}

TEST_F(Extras, NamesTheImportanceMatrixAsLlamaQuantizeDoes) {
  const Json importance{{"texts", {"/home/me/held.txt", "wiki.txt"}}, {"entries", 21}, {"windows", 64}};
  const Json report{{"scheme", "q4_0"}, {"options", {{"importance", importance}}}};
  write_text_file(source_->path() / "retort.json", report.dump());
  export_to(temp_.path() / "model.gguf", {.format = "gguf", .type = {}});
  const GgufFile file(temp_.path() / "model.gguf");
  EXPECT_EQ(file.header().string("quantize.imatrix.dataset"), "held.txt, wiki.txt");
  EXPECT_EQ(file.header().integer("quantize.imatrix.entries_count"), 21);
  EXPECT_EQ(file.header().integer("quantize.imatrix.chunks_count"), 64);
  fs::remove(source_->path() / "retort.json");
  export_to(temp_.path() / "without.gguf", {.format = "gguf", .type = {}});
  const GgufFile without(temp_.path() / "without.gguf");
  for (const auto& [key, value] : without.header().metadata) EXPECT_THAT(key, Not(HasSubstr("imatrix")));
}

// BaseName-SizeLabel-FineTune-Version-Encoding of ggml's naming convention, and the same parts as keys.
TEST_F(Extras, AFileInADirectoryIsNamedAfterTheModel) {
  using Keys = std::vector<std::optional<std::string>>;
  const auto check = [&](const std::string& id, const std::string& file, const Keys& keys) {
    SCOPED_TRACE(id);
    const fs::path model = temp_.path() / file, output = temp_.path() / (file + ".out");
    testing::TinyModel shape{.ffn_size = 128};
    if (!id.empty()) shape.extra = {{"_name_or_path", id}};
    const auto source = testing::quantized_model(model, shape, "q4_0", true);
    fs::create_directory(output);
    export_model(*source, output, {.format = "gguf", .type = {}}, context_);
    EXPECT_EQ(source->config().parameters(), 144832);
    ASSERT_THAT(files_in(output), ::testing::ElementsAre(output / file));
    const GgufFile written(output / file);
    Keys found;
    for (const char* key : {"name", "basename", "size_label", "finetune", "version"})
      found.push_back(written.header().string(std::string("general.") + key));
    EXPECT_EQ(found, keys);
  };
  check("", "Llama-145K-v1.0-Q4_0.gguf", {{}, {}, "145K", {}, {}});
  check("/home/me/Tiny-1M-chat", "Llama-145K-v1.0-Q4_0.gguf", {{}, {}, "145K", {}, {}});
  check("student", "Student-145K-v1.0-Q4_0.gguf", {"Student", {}, "145K", {}, {}});
  check("someone/Tiny-3.2-150K-chat-v0.3", "Tiny-3-2-150K-chat-v0.3-Q4_0.gguf",
        {"Tiny 3.2 150K Chat v0.3", "Tiny-3.2", "150K", "chat", "v0.3"});
}

TEST(EndTokens, TakeTheKeysThatFitThem) {
  const auto check = [](std::vector<std::string> texts, std::vector<int64_t> ids, std::vector<int64_t> keys,
                        std::vector<int64_t> unsaid) {
    ModelConfig config;
    config.eos_ids = std::move(ids);
    Vocabulary vocabulary;
    for (std::string& text : texts) vocabulary.tokens.push_back({.text = std::move(text)});
    const GgufEndTokens ends = gguf_end_tokens(config, vocabulary);
    EXPECT_EQ((std::vector<int64_t>{ends.eos.value_or(-1), ends.eot.value_or(-1), ends.eom.value_or(-1)}), keys);
    EXPECT_EQ(ends.unsaid, unsaid);
  };
  check({"a"}, {}, {-1, -1, -1}, {});
  check({"a", "b", "c"}, {2, 0, 1}, {2, 0, 1}, {});
  check({"a", "b", "c", "d"}, {2, 0, 1, 3}, {2, 0, 1}, {3});
  check({"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"}, {0, 1, 2}, {0, 2, 1}, {});
  check({"<|im_end|>", "<|endoftext|>"}, {0, 1}, {0, -1, 1}, {});
  check({"a", "<|im_end|>", "b"}, {0, 2}, {0, -1, 2}, {});  // llama.cpp takes the second for the end of a turn
  check({"a", "<|im_end|>", "<|eom_id|>", "b"}, {0, 3}, {0, -1, -1}, {3});
  check({"a", "<|endoftext|>", "b", "c"}, {0, 1, 2, 3}, {0, 2, 3}, {});  // a text that it knows needs no key
  check({"a"}, {0, 7, 8, 9}, {0, 7, 8}, {9});                            // rows of padding
}

// Without a tokenizer's own EOS the first of the list is it.
TEST_F(Extras, EveryTokenThatEndsAGenerationIsWrittenOrReported) {
  const auto check = [&](const std::vector<int64_t>& ids, const std::vector<int64_t>& written, size_t notes) {
    const fs::path model = temp_.path() / Json(ids).dump(), path = temp_.path() / (Json(ids).dump() + ".gguf");
    testing::quantized_model(model, {.ffn_size = 128, .extra = {{"eos_token_id", ids}}}, "q4_0", true);
    write_text_file(model / "quantized" / "tokenizer_config.json", R"({"bos_token": "<s>"})");
    const auto source = open_model(model / "quantized");
    const ExportSummary summary = export_model(*source, path, {.format = "gguf", .type = {}}, context_);
    EXPECT_EQ(summary.notes.size(), notes);
    EXPECT_EQ(open_model(path)->config().eos_ids, written);
    const VerifyResult result = verify_artifact(path, *source, context_);
    EXPECT_TRUE(result.equal());
    EXPECT_EQ(result.notes.size(), notes);
    Json config = read_json_file(model / "quantized" / "config.json");
    for (const std::vector<int64_t>& others : {std::vector<int64_t>{0, 5}, {0, 5, 8}}) {
      config["eos_token_id"] = others;
      write_text_file(model / "quantized" / "config.json", config.dump());
      const VerifyResult other = verify_artifact(path, *open_model(model / "quantized"), context_);
      EXPECT_FALSE(other.tokenizer_equal) << Json(others);
      EXPECT_THAT(other.differences, ::testing::Contains(HasSubstr("ends a generation")));
    }
  };
  check({0, 5, 7}, {0, 5, 7}, 0);
  check({0, 5, 7, 9}, {0, 5, 7}, 1);
}

// In GGUF under names of letters and digits; back in a directory they are files.
TEST_F(Extras, NamedChatTemplatesAreInEveryFormat) {
  const fs::path model = temp_.path() / "named", again = temp_.path() / "again";
  testing::quantized_model(model, {.ffn_size = 128}, "int4-g32-sym");
  Json settings = read_json_file(model / "quantized" / "tokenizer_config.json");
  settings["chat_template"] =
      Json::parse(R"([{"name": "default", "template": "a"}, {"name": "tool-use", "template": "b"}])");
  write_text_file(model / "quantized" / "tokenizer_config.json", settings.dump());
  fs::create_directory(model / "quantized" / "additional_chat_templates");
  write_text_file(model / "quantized" / "additional_chat_templates" / "rag.jinja", "c");
  const auto source = open_model(model / "quantized");
  const fs::path path = temp_.path() / "named.gguf";
  export_model(*source, path, {.format = "gguf", .type = {}}, context_);
  const GgufFile file(path);
  EXPECT_EQ(file.header().string("tokenizer.chat_template"), "a");
  EXPECT_EQ(file.header().string("tokenizer.chat_template.tool_use"), "b");
  EXPECT_EQ(file.header().string("tokenizer.chat_template.rag"), "c");
  EXPECT_THAT(*file.header().strings("tokenizer.chat_templates"), ::testing::ElementsAre("rag", "tool_use"));
  EXPECT_TRUE(verify_artifact(path, *source, context_).equal());
  fs::create_directory(again);
  export_model(*open_model(path), again, {.format = "gptq", .type = {}}, context_);
  EXPECT_EQ(read_text_file(again / "additional_chat_templates" / "tool_use.jinja"), "b");
  EXPECT_EQ(read_text_file(again / "chat_template.jinja"), "a");
  EXPECT_TRUE(verify_artifact(again, *open_model(path), context_).equal());
  write_text_file(model / "quantized" / "additional_chat_templates" / "rag.jinja", "other");
  const VerifyResult changed = verify_artifact(path, *open_model(model / "quantized"), context_);
  EXPECT_FALSE(changed.template_equal);
  EXPECT_THAT(changed.differences, ::testing::ElementsAre("chat template 'rag': its bytes differ"));
  fs::remove_all(model / "quantized" / "additional_chat_templates");
  EXPECT_THAT(verify_artifact(path, *open_model(model / "quantized"), context_).differences,
              ::testing::ElementsAre("chat template 'rag': the model has none"));
}

TEST_F(Extras, DirectoriesCarryWhatTheyWereMadeFrom) {
  const auto teacher = open_model(kTeacher);
  const fs::path first = temp_.path() / "first", second = temp_.path() / "second";
  for (const fs::path& directory : {first, second}) fs::create_directory(directory);
  export_model(*teacher, first, {.format = "hf", .type = DType::kF32}, context_);
  Json config = read_json_file(first / "config.json");
  EXPECT_EQ(config["retort"]["template_digest"].get<std::string>().size(), 32u);
  EXPECT_EQ(config["retort"]["tokenizer_digest"].get<std::string>().size(), 32u);
  EXPECT_TRUE(verify_artifact(first, *teacher, context_).equal());
  config["retort"]["scheme"] = "int4-g128-sym";  // as if it had been quantized
  write_text_file(first / "config.json", config.dump());
  export_model(*open_model(first), second, {.format = "hf", .type = DType::kF32}, context_);
  Json again = read_json_file(second / "config.json")["retort"];
  for (const auto& [name, text] : config["retort"].items()) EXPECT_EQ(again[name], text);
  for (const char* name : {"template_digest", "tokenizer_digest"}) {
    Json changed = config;
    changed["retort"][name] = "0";
    write_text_file(first / "config.json", changed.dump());
    const VerifyResult result = verify_artifact(first, *teacher, context_);
    EXPECT_FALSE(result.equal());
    EXPECT_THAT(result.differences, ::testing::ElementsAre(HasSubstr(name)));
  }
}

TEST(Modelfile, HasTheLayoutOfTurnsAndTheStops) {
  const Modelfile file = modelfile_of(*open_model(kTeacher), "model.gguf");
  EXPECT_EQ(file.problem, "");
  EXPECT_THAT(file.text, HasSubstr("FROM ./model.gguf\n"));
  EXPECT_THAT(file.text, HasSubstr("<|im_start|>{{ .Role }}"));
  EXPECT_THAT(file.text, HasSubstr("PARAMETER stop \"<|im_end|>\""));
}

TEST_F(Extras, ATemplateThatOllamaCannotRenderIsReported) {
  TempDir copy;
  fs::copy(kTeacher, copy.path() / "model", fs::copy_options::recursive);
  write_text_file(copy.path() / "model" / "chat_template.jinja",
                  "{% for m in messages %}({{ m.content }}){% endfor %}");
  const Modelfile file = modelfile_of(*open_model(copy.path() / "model"), "model.gguf");
  EXPECT_THAT(file.problem, HasSubstr("Ollama"));
  EXPECT_THAT(file.text, Not(HasSubstr("TEMPLATE")));
}

// A Modelfile has no escapes: these texts would end a quotation, begin an action or be lost.
TEST(Modelfile, ReportsATextThatCannotBeQuoted) {
  TempDir dir;
  testing::write_tiny_model(dir.path(), {.extra = {{"eos_token_id", 257}}});
  write_text_file(dir.path() / "chat_template.jinja", "<|user|>\n<|assistant|>\n{{ eos_token }}");
  const std::string tokenizer = read_text_file(dir.path() / "tokenizer.json");
  for (const char* text : {"</s>", "a\\b", "\"\"\"", "x\"", "</s>\nPARAMETER num_ctx 1", "{{ .System }}", "\x01"}) {
    Json json = parse_json(tokenizer, "tokenizer.json");
    for (Json& token : json["added_tokens"])
      if (token["id"] == 257) token["content"] = text;
    write_text_file(dir.path() / "tokenizer.json", json.dump());
    write_text_file(dir.path() / "tokenizer_config.json", Json{{"eos_token", text}}.dump());
    const Modelfile file = modelfile_of(*open_model(dir.path()), "model.gguf");
    const bool quotable = text == std::string_view("</s>") || text == std::string_view("a\\b");
    EXPECT_EQ(file.problem.empty(), quotable) << text << ": " << file.problem;
    EXPECT_EQ(file.text.find(text) != std::string::npos, quotable) << file.text;
    EXPECT_EQ(file.text.find("PARAMETER stop \"" + std::string(text) + "\"\n") != std::string::npos, quotable);
    EXPECT_EQ(file.text.find("TEMPLATE \"\"\"") != std::string::npos, quotable) << file.text;
  }
}

TEST_F(Extras, CardSaysWhatWasMeasuredAndWhatWasNot) {
  const ExportOptions options{.format = "gguf", .type = {}};
  const ExportSummary summary = export_to(temp_.path() / "model.gguf", options);
  EXPECT_THAT(model_card(*source_, options, summary, {}, {"model.gguf"}), HasSubstr("were not measured"));
  const Json measured{{"model_digest", "0123"},
                      {"text", "/home/me/held.txt"},
                      {"reference", "../models/teacher/"},
                      {"convention", "windows-256"},
                      {"tokens", 287640},
                      {"perplexity", 54.4},
                      {"kl_mean", nullptr}};
  const std::string card = model_card(*source_, options, summary, {&measured, 1}, {"model.gguf"});
  EXPECT_THAT(card, HasSubstr("| windows-256 | held.txt | 287640 | 54.4 | teacher | not measured |"));
  EXPECT_THAT(card, HasSubstr("llama-cli -m model.gguf"));
  EXPECT_THAT(card, Not(HasSubstr("were not measured")));
  EXPECT_THAT(card, HasSubstr("made from, whose numbers it holds."));
  const fs::path file = temp_.path() / "measured.json";
  write_text_file(file, measured.dump());
  EXPECT_EQ(read_measured(file), measured);
  for (const char* other : {R"({"loss": 1})", "[1]", "no JSON"}) {
    write_text_file(file, other);
    EXPECT_THROW(read_measured(file), Error) << other;
  }
}

// The measured model has other numbers than an artifact that rounds them.
TEST_F(Extras, CardSaysThatAnArtifactInAnotherTypeWasNotMeasured) {
  const Json measured{{"model_digest", "0123"}, {"perplexity", 54.4}};
  const auto card = [&](const ExportOptions& options, const ExportSummary& summary) {
    return model_card(*source_, options, summary, {&measured, 1}, {});
  };
  const ExportSummary fallen{.tensors = 2, .quantized = 1, .fallbacks = {{"lm_head.weight", "a reason"}}};
  const ExportOptions typed{.format = "gguf", .type = DType::kBF16};
  EXPECT_THAT(card(typed, {}), HasSubstr("has its numbers in bf16 and was not measured itself"));
  ExportOptions options{.format = "gptq", .type = {}, .fallback = DType::kF16};
  EXPECT_THAT(card(options, fallen), HasSubstr("has 1 of its tensors in f16 and was not measured itself"));
  EXPECT_THAT(card(options, {}), HasSubstr("whose numbers it holds"));
  options.fallback = DType::kF32;
  EXPECT_THAT(card(options, fallen), HasSubstr("whose numbers it holds"));
  EXPECT_THAT(card({.format = "hf", .type = DType::kF32}, {}), HasSubstr("whose numbers it holds"));
}

// Figures of another model, the float one's say, are refused; of a JSON that does not say whose they are that is said.
TEST_F(Extras, CardHasNoFiguresOfAnotherModel) {
  const Json measured{{"model_digest", "0123"}, {"perplexity", 54.4}}, nameless{{"perplexity", 54.4}};
  check_measured(measured, "measured.json", "0123");
  check_measured(nameless, "measured.json", "0123");
  EXPECT_THAT(testing::error_of([&] { check_measured(measured, "measured.json", "4567"); }),
              HasSubstr("measured.json: it was measured on another model"));
  const std::string card = model_card(*source_, {.format = "hf", .type = DType::kF32}, {}, {&nameless, 1}, {});
  EXPECT_THAT(card, HasSubstr("do not say which model they were measured on."));
  EXPECT_THAT(card, Not(HasSubstr("Measured by")));
}

// The text of a path relative to some directory is like that of a repository: only who exports knows.
TEST_F(Extras, CardNamesTheBaseModelThatItIsTold) {
  const auto source = testing::quantized_model(
      temp_.path() / "moved", {.ffn_size = 128, .extra = {{"_name_or_path", "out/student"}}}, "q4_0", true);
  ExportOptions options{.format = "gguf", .type = {}};
  const ExportSummary quantized{.tensors = 2, .quantized = 1, .fallbacks = {}},
      dense{.tensors = 2, .quantized = 0, .fallbacks = {}};
  const std::string untold = model_card(*source, options, quantized, {}, {});
  EXPECT_THAT(untold, Not(HasSubstr("base_model")));
  EXPECT_THAT(untold, Not(HasSubstr("out/")));
  EXPECT_THAT(untold, HasSubstr("# student, gguf\n"));
  options.base_model = "someone/Tiny-3.2";
  EXPECT_THAT(model_card(*source, options, quantized, {}, {}),
              HasSubstr("base_model: someone/Tiny-3.2\nbase_model_relation: quantized\n"));
  const std::string card = model_card(*source, options, dense, {}, {});
  EXPECT_THAT(card, HasSubstr("base_model: someone/Tiny-3.2\nlibrary_name"));
  EXPECT_THAT(card, HasSubstr("# Tiny-3.2, gguf\n"));
  export_to(temp_.path() / "told.gguf", options);
  EXPECT_EQ(GgufFile(temp_.path() / "told.gguf").header().string("general.name"), "Tiny 3.2");
}

TEST_F(Extras, CardNamesTheTypeOfTheScales) {
  Json config = read_json_file(temp_.path() / "model" / "quantized" / "config.json");
  config["retort"] = {{"scheme", "q4_0"}, {"scale_type", "portable"}};
  write_text_file(temp_.path() / "model" / "quantized" / "config.json", config.dump());
  const auto source = open_model(temp_.path() / "model" / "quantized");
  const ExportSummary summary{.tensors = 2, .quantized = 1, .fallbacks = {}};
  EXPECT_THAT(model_card(*source, {.format = "gguf", .type = {}}, summary, {}, {}), HasSubstr("| scales | portable |"));
}

}  // namespace
}  // namespace retort
