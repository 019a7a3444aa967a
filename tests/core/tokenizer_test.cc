// Every component and every tokenizer at hand against goldens of Hugging Face tokenizers and SentencePiece
// (tests/oracles/make_tokenizer_goldens.py).
#include "core/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/base/json.h"
#include "core/tokenizer/sentencepiece.h"
#include "core/tokenizer/tokenizer_files.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(RETORT_SOURCE_DIR) / "tests/golden/tokenizer";
const fs::path kShared = fs::path(RETORT_SOURCE_DIR) / "../shared/data";

// ---- what the script computes ----

// CRC-32 (IEEE 802.3), bit by bit.
class Digest32 {
 public:
  Digest32& add(std::string_view text) {
    for (const char c : text) byte(static_cast<uint8_t>(c));
    byte(0);
    return *this;
  }
  Digest32& add(const std::vector<int32_t>& ids) {
    std::string text;
    for (const int32_t id : ids) text += std::to_string(id) + " ";
    return add(text);
  }
  std::string hex() const {
    char text[9];
    std::snprintf(text, sizeof text, "%08x", ~crc_);
    return text;
  }

 private:
  void byte(uint8_t value) {
    crc_ ^= value;
    for (int bit = 0; bit < 8; ++bit) crc_ = (crc_ >> 1) ^ (crc_ & 1 ? 0xEDB88320u : 0);
  }
  uint32_t crc_ = ~0u;
};

std::string text_of(const Json& entry) {
  std::string text;
  if (entry.contains("hex")) {
    const auto hex = entry["hex"].get<std::string>();
    for (size_t i = 0; i < hex.size(); i += 2) text += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    return text;
  }
  for (const Json& part : entry["parts"])
    for (int i = 0; i < part[1].get<int>(); ++i) text += part[0].get<std::string>();
  return text;
}

const std::vector<std::string>& corpus() {
  static const std::vector<std::string> texts = [] {
    std::vector<std::string> all;
    const Json file = read_json_file(kGolden / "corpus.json");
    for (const Json& entry : file["texts"]) all.push_back(text_of(entry));
    return all;
  }();
  return texts;
}

// Every character of some blocks, with a mark after it and before it.
std::string unicode_text() {
  constexpr std::pair<char32_t, char32_t> kBlocks[] = {
      {0x20, 0x250},    {0x300, 0x400},   {0x900, 0x980},   {0x1100, 0x1200},   {0x1E00, 0x2190},
      {0x2460, 0x2500}, {0x3000, 0x32FF}, {0x3300, 0x3400}, {0xAC00, 0xD7A4},   {0xF900, 0xFAFF},
      {0xFB00, 0xFE00}, {0xFE30, 0xFE50}, {0xFF00, 0xFFF0}, {0x1D400, 0x1D800}, {0x2F800, 0x2FA1E}};
  std::string text;
  for (const auto& [first, last] : kBlocks)
    for (char32_t c = first; c < last; ++c) {
      for (const char32_t part : {c, U'\u0301', c, U'\u0323', U'\u0301'}) append_utf8(text, part);
    }
  return text;
}

std::vector<std::vector<int32_t>> id_lists(int64_t size) {
  std::vector<std::vector<int32_t>> lists{{}, {0}, {static_cast<int32_t>(size - 1)}, {}, {}, {}};
  for (int64_t i = 0; i < std::min<int64_t>(size, 600); ++i) lists[3].push_back(static_cast<int32_t>(i));
  for (int64_t i = 0; i < 300; ++i) {
    lists[4].push_back(static_cast<int32_t>((i * 7919 + 13) % size));
    lists[5].push_back(static_cast<int32_t>((i * 104729 + 1) % size));
  }
  return lists;
}

std::vector<std::string> words(const Json& text) {
  std::istringstream stream(text.get<std::string>());
  return {std::istream_iterator<std::string>(stream), {}};
}

std::string shown(const std::vector<int32_t>& ids) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(ids.size(), 60); ++i) text += std::to_string(ids[i]) + ",";
  return text;
}

void expect_equal(const Tokenizer& tokenizer, const Json& golden, const std::string& name) {
  EXPECT_EQ(tokenizer.size(), golden["size"].get<int64_t>()) << name;
  const auto expected = words(golden["texts"]);
  ASSERT_EQ(expected.size(), corpus().size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto ids = tokenizer.encode(corpus()[i]), plain = tokenizer.encode(corpus()[i], false);
    const auto text = tokenizer.decode(ids), skipped = tokenizer.decode(ids, true);
    EXPECT_EQ(Digest32().add(ids).add(plain).add(text).add(skipped).hex(), expected[i])
        << name << " text " << i << " '" << corpus()[i].substr(0, 200) << "'\n  ids " << shown(ids) << "\n  plain "
        << shown(plain) << "\n  decoded '" << text.substr(0, 200) << "'\n  skipped '" << skipped.substr(0, 200) << "'";
  }
  if (golden.contains("unicode")) {
    EXPECT_EQ(Digest32().add(tokenizer.encode(unicode_text(), false)).hex(), golden["unicode"]) << name << " unicode";
  }
  const auto lists = id_lists(tokenizer.size());
  const auto expected_lists = words(golden["lists"]);
  ASSERT_EQ(expected_lists.size(), lists.size());
  for (size_t i = 0; i < lists.size(); ++i)
    EXPECT_EQ(Digest32().add(tokenizer.decode(lists[i])).add(tokenizer.decode(lists[i], true)).hex(), expected_lists[i])
        << name << " list " << i;
}

std::string component_json(const Json& models, const Json& golden) {
  Json json{{"version", "1.0"}};
  for (const char* key : {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"})
    json[key] = golden[key];
  json["model"] = models[golden["model"].get<std::string>()];
  return json.dump();
}

TEST(TokenizerGolden, EveryComponentEqualsTheReference) {
  const Json models = read_json_file(kGolden / "models.json");
  const Json golden = read_json_file(kGolden / "components.json");
  for (const auto& [name, expected] : golden["cases"].items()) {
    try {
      const std::string config = expected.contains("config") ? expected["config"].dump() : "";
      expect_equal(*tokenizer_from_json(component_json(models, expected), config, name), expected, name);
    } catch (const Error& error) {
      ADD_FAILURE() << name << ": " << error.what();
    }
  }
}

TEST(TokenizerGolden, TheCheckpointsAtHandEqualTheReference) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "../shared/data is absent: the tokenizers of real models are not compared";
  const Json golden = read_json_file(kGolden / "checkpoints.json");
  for (const auto& [path, expected] : golden["cases"].items()) {
    const auto tokenizer = tokenizer_from_json(read_text_file(kShared / path / "tokenizer.json"),
                                               read_text_file(kShared / path / "tokenizer_config.json"), path);
    expect_equal(*tokenizer, expected, path);
  }
}

std::string from_base64(std::string_view text) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    if (c == '=') break;
    bits = (bits << 6) | static_cast<uint32_t>(kDigits.find(c));
    if ((count += 6) >= 8) bytes += static_cast<char>((bits >> (count -= 8)) & 0xFF);
  }
  return bytes;
}

void expect_equal_to_sentencepiece(const std::string& model, const Json& golden, const std::string& name) {
  const auto tokenizer = tokenizer_from_sentencepiece(std::as_bytes(std::span(model)), "", name);
  EXPECT_EQ(tokenizer->size(), golden["size"].get<int64_t>()) << name;
  const auto expected = words(golden["texts"]), expected_lists = words(golden["lists"]);
  ASSERT_EQ(expected.size(), corpus().size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto ids = tokenizer->encode(corpus()[i], false);
    const auto text = tokenizer->decode(ids, true);
    EXPECT_EQ(Digest32().add(ids).add(text).hex(), expected[i])
        << name << " text " << i << " '" << corpus()[i].substr(0, 200) << "'\n  ids " << shown(ids) << "\n  decoded '"
        << text.substr(0, 200) << "'";
  }
  const auto lists = id_lists(tokenizer->size());
  for (size_t i = 0; i < lists.size(); ++i)
    EXPECT_EQ(Digest32().add(tokenizer->decode(lists[i], true)).hex(), expected_lists[i]) << name << " list " << i;
}

TEST(TokenizerGolden, SentencePieceModelsEqualTheReference) {
  const Json models = read_json_file(kGolden / "sentencepiece_models.json");
  const Json golden = read_json_file(kGolden / "sentencepiece.json");
  for (const auto& [name, model] : models.items())
    expect_equal_to_sentencepiece(from_base64(model.get<std::string>()), golden["cases"][name], name);
}

TEST(TokenizerGolden, TheSentencePieceModelsAtHandEqualTheReference) {
  if (!fs::exists(kShared))
    GTEST_SKIP() << "../shared/data is absent: the models of Llama and Mistral are not compared";
  const Json golden = read_json_file(kGolden / "sentencepiece.json");
  for (const auto& [name, expected] : golden["cases"].items())
    if (name.find('/') != std::string::npos)
      expect_equal_to_sentencepiece(read_text_file(kShared / name), expected, name);
}

// A special token and, where there is one, a user-defined piece among texts: all that is not in the corpus.
std::vector<std::string> marked(const std::string& text, const SentencePieceSpec& spec) {
  std::vector<std::string> texts{text, "</s>" + text, " a </s> " + text + " </s></s>"};
  const auto& tokens = spec.vocabulary.tokens;
  const auto piece = std::ranges::find(tokens, TokenType::kUserDefined, &VocabularyEntry::type);
  if (piece != tokens.end()) texts.push_back("a" + piece->text + text + " " + piece->text + " b</s>" + piece->text);
  return texts;
}

void expect_the_same_through_files(const std::string& model, const std::string& name) {
  const SentencePieceSpec spec = sentencepiece_spec(std::as_bytes(std::span(model)), "", name);
  EXPECT_EQ(refuses_tokenizer_files(spec), "") << name;
  const TokenizerFiles files = tokenizer_files_of(spec);
  const auto direct = make_sentencepiece_tokenizer(spec, name);
  const auto made = tokenizer_from_json(files.tokenizer, files.config, name);
  EXPECT_EQ(made->size(), direct->size());
  for (const std::string& plain : corpus())
    for (const std::string& text : marked(plain, spec)) {
      const auto ids = direct->encode(text);
      EXPECT_EQ(made->encode(text), ids) << name << " '" << text.substr(0, 200) << "'";
      const bool unknown = std::ranges::find(ids, *spec.vocabulary.unknown) != ids.end();  // decoded by its surface
      EXPECT_TRUE(unknown || made->decode(ids, true) == direct->decode(ids, true)) << name << " '" << text << "'";
    }
}

TEST(SentencePieceFiles, GiveTheSameIds) {
  const Json models = read_json_file(kGolden / "sentencepiece_models.json");
  for (const char* name : {"no_prefix", "crossing"})
    expect_the_same_through_files(from_base64(models[name].get<std::string>()), name);
}

TEST(SentencePieceFiles, OfTheModelsAtHandGiveTheSameIds) {
  if (!fs::exists(kShared))
    GTEST_SKIP() << "../shared/data is absent: the models of Llama and Mistral are not compared";
  const Json golden = read_json_file(kGolden / "sentencepiece.json");
  for (const auto& [name, expected] : golden["cases"].items())
    if (name.find('/') != std::string::npos) expect_the_same_through_files(read_text_file(kShared / name), name);
}

TEST(SentencePieceFiles, AModelThatTheyCannotSayIsRefused) {
  const Json models = read_json_file(kGolden / "sentencepiece_models.json");
  const auto refusal = [&](const char* name) {
    const std::string model = from_base64(models[name].get<std::string>());
    return refuses_tokenizer_files(sentencepiece_spec(std::as_bytes(std::span(model)), "", name));
  };
  EXPECT_EQ(refusal("plain"), "it makes one blank of several");
  EXPECT_EQ(refusal("rules"), "it has rules of normalization");
  EXPECT_EQ(refusal("suffix"), "its blanks stand behind words");
  EXPECT_EQ(refusal("bytes"), "its piece 'the qu' is user-defined and has a blank");
}

// Special tokens in a text are a matter of transformers, not of SentencePiece.
TEST(TokenizerGolden, SpecialTokensInATextAreFoundAsTransformersFindThem) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "../shared/data is absent: the model of Llama 2 is not compared";
  const Json golden = read_json_file(kGolden / "sentencepiece.json");
  for (const auto& [name, expected] : golden["special"].items()) {
    const std::string model = read_text_file(kShared / name);
    const auto tokenizer =
        tokenizer_from_sentencepiece(std::as_bytes(std::span(model)), expected["config"].dump(), name);
    for (const Json& row : expected["texts"]) {
      const auto ids = tokenizer->encode(row[0].get<std::string>());
      EXPECT_EQ(ids, row[1].get<std::vector<int32_t>>()) << name << " '" << row[0] << "'";
      EXPECT_EQ(tokenizer->decode(ids), row[2].get<std::string>()) << name;
    }
  }
}

}  // namespace
}  // namespace retort
