// ONNX directories of models with a tokenizer.model: onnxruntime-genai reads only the tokenizer.json that is made of
// it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>

#include "core/base/files.h"
#include "export/exporter.h"
#include "export/verifier.h"
#include "tests/export/quantized_model.h"

namespace retort {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

// ---- SentencePiece's ModelProto, of which no message here is longer than 127 bytes ----

std::string number(int key, int value) { return {static_cast<char>(key << 3), static_cast<char>(value)}; }
std::string bytes(int key, const std::string& value) {
  return std::string{static_cast<char>(key << 3 | 2), static_cast<char>(value.size())} + value;
}
std::string piece(const std::string& text, float score, TokenType type = TokenType::kNormal) {
  std::string four;
  for (int shift = 0; shift < 32; shift += 8) four += static_cast<char>(std::bit_cast<uint32_t>(score) >> shift);
  return bytes(1, bytes(1, text) + static_cast<char>(2 << 3 | 5) + four + number(3, static_cast<int>(type)));
}

constexpr int kBpe = 2, kTrainer = 2, kNormalizer = 3, kModelType = 3, kExtraBlanks = 4;

std::string tokenizer_model(const std::string& pieces) {
  return piece("<unk>", 0, TokenType::kUnknown) + piece("<s>", 0, TokenType::kControl) +
         piece("</s>", 0, TokenType::kControl) + pieces + bytes(kTrainer, number(kModelType, kBpe)) +
         bytes(kNormalizer, number(kExtraBlanks, 0));
}

const std::string kPieces = piece("a", -1) + piece("b", -2) + piece("ab", -3) + piece("\xE2\x96\x81", -4);

class JsonTokenizers : public ::testing::Test {
 protected:
  // With that tokenizer.model as its only file of a tokenizer.
  std::unique_ptr<ModelSource> model(const std::string& pieces) {
    testing::write_tiny_model(directory(), {.layers = 1});
    fs::remove(directory() / "tokenizer.json");
    fs::remove(directory() / "tokenizer_config.json");
    write_text_file(directory() / "tokenizer.model", tokenizer_model(pieces));
    return open_model(directory());
  }
  ExportSummary write(const ModelSource& source, const std::string& format = "onnx") {
    fs::remove_all(made());
    fs::create_directories(made());
    return export_model(source, made(), {.format = format, .type = {}}, context_);
  }
  VerifyResult verify(const ModelSource& source) { return verify_artifact(made(), source, context_); }
  fs::path directory() const { return temp_.path() / "model"; }
  fs::path made() const { return temp_.path() / "made"; }

  TempDir temp_;
  ThreadPool threads_{1};
  ProgressSink silent_;
  Context context_{threads_, silent_};
};

TEST_F(JsonTokenizers, GiveTheIdsOfTheModel) {
  const auto source = model(kPieces);
  EXPECT_THAT(write(*source).notes, IsEmpty());
  EXPECT_TRUE(verify(*source).equal());
  const std::string json = read_text_file(made() / "tokenizer.json");
  const auto added = tokenizer_from_json(json, read_text_file(made() / "tokenizer_config.json"), "made");
  for (const char* text : {"ab  ba", " a</s>b", "</s> ab"})
    EXPECT_EQ(added->encode(text), source->tokenizer()->encode(text)) << text;
  EXPECT_EQ(read_text_file(made() / "tokenizer.model"), read_text_file(directory() / "tokenizer.model"));
}

TEST_F(JsonTokenizers, LieOnlyWhereTheyAreNeeded) {
  const auto source = model(kPieces);
  write(*source, "hf");
  EXPECT_FALSE(fs::exists(made() / "tokenizer.json"));
  EXPECT_TRUE(verify(*source).equal());
}

// It may name other tokens than the model, which counts for neither.
TEST_F(JsonTokenizers, LeaveTheSettingsAsTheyAre) {
  model(kPieces);
  const std::string settings = R"({"tokenizer_class": "LlamaTokenizer", "pad_token": "</s>", "add_bos_token": false})";
  write_text_file(directory() / "tokenizer_config.json", settings);
  const auto source = open_model(directory());
  write(*source);
  EXPECT_EQ(read_text_file(made() / "tokenizer_config.json"), settings);
  const auto result = verify(*source);
  EXPECT_TRUE(result.equal()) << ::testing::PrintToString(result.differences);
}

TEST_F(JsonTokenizers, ThatWereChangedAreFound) {
  const auto source = model(kPieces);
  write(*source);
  const std::string json = read_text_file(made() / "tokenizer.json");
  std::string other_id = json;
  other_id.replace(other_id.find("\"a\": 3"), 6, "\"a\": 4").replace(other_id.find("\"b\": 4"), 6, "\"b\": 3");
  for (const std::string& changed : {other_id, json + " "}) {
    write_text_file(made() / "tokenizer.json", changed);
    const VerifyResult result = verify(*source);
    EXPECT_FALSE(result.tokenizer_equal);
    EXPECT_THAT(result.differences, Contains(HasSubstr("tokenizer.json: it has other bytes")));
  }
  fs::remove(made() / "tokenizer.json");
  EXPECT_FALSE(verify(*source).tokenizer_equal);
}

TEST_F(JsonTokenizers, ThatNoMergesGiveAreLeftOutWithANote) {
  const auto source = model(kPieces + piece("ba", -3));
  const auto note = ElementsAre(HasSubstr("no tokenizer.json gives its ids: its pieces 'ab' and 'ba' have one score"));
  EXPECT_THAT(write(*source).notes, note);
  EXPECT_FALSE(fs::exists(made() / "tokenizer.json"));
  const VerifyResult result = verify(*source);
  EXPECT_TRUE(result.equal());
  EXPECT_THAT(result.notes, note);
}

TEST_F(JsonTokenizers, SayWhereUserDefinedPiecesDiffer) {
  const auto source = model(kPieces + piece("[x]", 0, TokenType::kUserDefined));
  const auto note = ElementsAre(HasSubstr("begins with a user-defined piece, such as '[x]'"));
  EXPECT_THAT(write(*source).notes, note);
  const VerifyResult result = verify(*source);
  EXPECT_TRUE(result.equal());
  EXPECT_THAT(result.notes, note);
}

}  // namespace
}  // namespace retort
