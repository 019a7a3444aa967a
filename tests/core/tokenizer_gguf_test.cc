// The vocabularies of GGUF files, against llama.cpp's own vectors; and the way from tokenizer.json to GGUF and back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <random>
#include <sstream>

#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
#include "core/checkpoint/gguf_model.h"
#include "core/checkpoint/model_source.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_files.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

const fs::path kShared = fs::path(RETORT_SOURCE_DIR) / "../shared/data";

std::vector<std::string> split_at(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at; (at = text.find(separator, begin)) != std::string::npos; begin = at + separator.size())
    parts.push_back(text.substr(begin, at - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

std::vector<int32_t> numbers(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<int32_t>(stream), {}};
}

std::unique_ptr<Tokenizer> through_files(const Vocabulary& vocabulary) {
  EXPECT_EQ(refuses_tokenizer_files(vocabulary), "");
  const TokenizerFiles files = tokenizer_files_of(vocabulary);
  return tokenizer_from_json(files.tokenizer, files.config, "rebuilt");
}

class GgufVectors : public testing::TestWithParam<const char*> {};

TEST_P(GgufVectors, EqualLlamaCpp) {
  const fs::path base = kShared / "tokenizers/ggml-vocab" / (std::string("ggml-vocab-") + GetParam() + ".gguf");
  if (!fs::exists(base)) GTEST_SKIP() << base << " is absent: llama.cpp's vectors are not compared";
  const auto tokenizer = open_tokenizer(base);
  const auto files = through_files(vocabulary_of_gguf(GgufFile(base).header(), base.string()));
  EXPECT_EQ(files->size(), tokenizer->size());
  EXPECT_NE(files->vocabulary().pre, "");  // and can become a GGUF file again
  const auto again = tokenizer_from_vocabulary(files->vocabulary(), "again");
  const auto texts = split_at(read_text_file(base.string() + ".inp"), "\n__ggml_vocab_test__\n");
  const auto expected = split_at(read_text_file(base.string() + ".out"), "\n");
  ASSERT_GE(expected.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer->encode(texts[i], false), numbers(expected[i])) << i << " '" << texts[i] << "'";
    EXPECT_EQ(files->encode(texts[i], false), numbers(expected[i])) << i << " '" << texts[i] << "' through files";
    EXPECT_EQ(again->encode(texts[i], false), numbers(expected[i])) << i << " '" << texts[i] << "' and back";
    for (const auto* each : {&tokenizer, &files})
      EXPECT_EQ((*each)->decode(tokenizer->encode(texts[i], false)), texts[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufVectors, testing::Values("gpt-2", "llama-spm", "phi-3", "starcoder"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

struct RoundTrip {
  const char* path;
  const char* pre;
};

class GgufRoundTrip : public testing::TestWithParam<RoundTrip> {};

// A tokenizer rebuilt from what a GGUF file would hold gives the same ids.
TEST_P(GgufRoundTrip, GivesTheSameIds) {
  const fs::path directory = kShared / GetParam().path;
  if (!fs::exists(directory)) GTEST_SKIP() << directory << " is absent";
  const auto original = open_tokenizer(directory);
  EXPECT_EQ(original->vocabulary().pre, GetParam().pre);
  const auto rebuilt = tokenizer_from_vocabulary(original->vocabulary(), "rebuilt");
  EXPECT_EQ(rebuilt->size(), original->size());
  const fs::path book = kShared / "text/books-dev/moonstone.md";
  for (const std::string& text : split_at(read_text_file(book).substr(0, 300000), "\n\n")) {
    ASSERT_EQ(rebuilt->encode(text), original->encode(text)) << text;
    ASSERT_EQ(rebuilt->decode(original->encode(text), true), original->decode(original->encode(text), true));
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufRoundTrip,
                         testing::Values(RoundTrip{"weights/books-5.8m", "gpt-2"},
                                         RoundTrip{"tokenizers/smollm2", "gpt-2"},
                                         RoundTrip{"tokenizers/phi-3", "default"},
                                         RoundTrip{"weights/stories260K-hf", "default"}),
                         [](const auto& test) {
                           std::string name = test.param.path;
                           std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
                           return name;
                         });

// ... and so does one rebuilt from the files of Hugging Face that it makes.
TEST_P(GgufRoundTrip, GivesTheSameIdsThroughFiles) {
  const fs::path directory = kShared / GetParam().path;
  if (!fs::exists(directory)) GTEST_SKIP() << directory << " is absent";
  const auto original = open_tokenizer(directory);
  const auto rebuilt = through_files(original->vocabulary());
  EXPECT_EQ(rebuilt->size(), original->size());
  EXPECT_EQ(rebuilt->vocabulary().bos, original->vocabulary().bos);
  EXPECT_EQ(rebuilt->vocabulary().eos, original->vocabulary().eos);
  EXPECT_EQ(rebuilt->vocabulary().pre, original->vocabulary().pre);
  std::string specials;
  for (const VocabularyEntry& token : original->vocabulary().tokens)
    if (token.type == TokenType::kControl) specials += "x" + token.text;
  EXPECT_EQ(rebuilt->encode(specials), tokenizer_from_vocabulary(original->vocabulary(), "direct")->encode(specials));
  const fs::path book = kShared / "text/books-dev/moonstone.md";
  for (const std::string& text : split_at(read_text_file(book).substr(0, 100000), "\n\n")) {
    ASSERT_EQ(rebuilt->encode(text), original->encode(text)) << text;
    ASSERT_EQ(rebuilt->decode(original->encode(text), true), original->decode(original->encode(text), true));
  }
}

// A vocabulary of SentencePiece's kind: the pieces after <unk>, <s>, </s> and, where asked for, 256 bytes.
Vocabulary pieces(const std::vector<std::pair<std::string, float>>& scored, bool bytes = true) {
  Vocabulary vocabulary;
  vocabulary.kind = Vocabulary::Kind::kSentencePiece;
  vocabulary.pre = "default";
  for (const char* text : {"<unk>", "<s>", "</s>"})
    vocabulary.tokens.push_back({text, 0, *(text + 1) == 'u' ? TokenType::kUnknown : TokenType::kControl});
  for (int byte = 0; bytes && byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    vocabulary.tokens.push_back({name, 0, TokenType::kByte});
  }
  for (const auto& [text, score] : scored) vocabulary.tokens.push_back({text, score, TokenType::kNormal});
  vocabulary.unknown = 0, vocabulary.bos = 1, vocabulary.eos = 2;
  vocabulary.add_bos = true;
  return vocabulary;
}

// Random pieces over a few characters, every one of which is a piece, so that merges overlap in every way.
TEST(PieceFiles, GiveTheIdsOfTheScores) {
  const std::vector<std::string> characters{"a", "b", "c", "\xE2\x96\x81"};
  std::mt19937 random(7);
  const auto word = [&](size_t least, size_t most) {
    std::string text;
    for (size_t n = least + random() % (most - least + 1); n > 0; --n) text += characters[random() % 4];
    return text;
  };
  for (int trial = 0; trial < 60; ++trial) {
    std::map<std::string, float> scored;
    for (const std::string& character : characters) scored[character] = -1000;
    // As training gives them: a piece is made of two that were there before it.
    std::vector<std::string> made = characters;
    for (int i = 0; i < 12; ++i) {
      const std::string text = made[random() % made.size()] + made[random() % made.size()];
      if (scored.emplace(text, -static_cast<float>(i)).second) made.push_back(text);
    }
    Vocabulary vocabulary = pieces({scored.begin(), scored.end()}, trial % 2 == 0);
    vocabulary.add_space_prefix = trial % 3 != 0;
    const auto direct = tokenizer_from_vocabulary(vocabulary, "direct"), files = through_files(vocabulary);
    for (int i = 0; i < 200; ++i) {
      std::string text = word(0, 12);
      for (size_t at; (at = text.find(characters[3])) != std::string::npos;) text.replace(at, 3, " ");
      if (i % 7 == 0) text += "<s>" + word(0, 3) + "\xC3\xA9\n";
      ASSERT_EQ(files->encode(text), direct->encode(text)) << trial << " '" << text << "'";
      ASSERT_EQ(files->decode(direct->encode(text)), direct->decode(direct->encode(text))) << text;
    }
  }
}

// Llama 2's runs of blanks share one score: the leftmost pair goes first.
TEST(PieceFiles, RunsOfOneCharacterMayShareAScore) {
  const std::string mark = "\xE2\x96\x81";
  for (const auto& lengths : {std::vector<int>{2, 3, 4, 5, 6, 7, 8}, {2, 4, 8}, {2, 3, 5}, {3}, {2, 4, 5, 8, 16}}) {
    std::vector<std::pair<std::string, float>> scored{{mark, -1}, {"a", -2}, {mark + "a", -3}};
    for (const int length : lengths) {
      std::string run;
      for (int i = 0; i < length; ++i) run += mark;
      scored.emplace_back(run, -1e9f);
    }
    const Vocabulary vocabulary = pieces(scored);
    const auto direct = tokenizer_from_vocabulary(vocabulary, "direct"), files = through_files(vocabulary);
    for (size_t count = 0; count < 60; ++count) {
      const std::string text = std::string(count, ' ') + "a" + std::string(60 - count, ' ');
      ASSERT_EQ(files->encode(text), direct->encode(text)) << count << " of " << lengths.size();
    }
    EXPECT_EQ(files->vocabulary().pre, "default") << "the files can become a GGUF file again";
  }
}

TEST(PieceFiles, UserDefinedPiecesAreFoundBeforeAllElse) {
  Vocabulary vocabulary = pieces({{"a", -1},
                                  {"\xE2\x96\x81", -2},
                                  {"\xE2\x96\x81"
                                   "a",
                                   -3}});
  vocabulary.tokens.push_back({"<|x|>", 0, TokenType::kUserDefined});
  const int32_t a = 259, mark = 260, joined = 261, added = 262;
  const auto direct = tokenizer_from_vocabulary(vocabulary, "direct"), files = through_files(vocabulary);
  // As llama.cpp: a blank stands after it as it does at the start.
  EXPECT_EQ(direct->encode("a<|x|>a", false), (std::vector<int32_t>{joined, added, joined}));
  EXPECT_EQ(direct->encode("a<|x|> a", false), (std::vector<int32_t>{joined, added, mark, joined}));
  for (const char* text : {"a<|x|>a", "<|x|><|x|> a", "aa<|x|>", "", "<|x|>"}) {
    EXPECT_EQ(files->encode(text), direct->encode(text)) << text;
    EXPECT_EQ(files->decode(direct->encode(text)), direct->decode(direct->encode(text))) << text;
  }
  EXPECT_EQ(direct->encode("aa", false), (std::vector<int32_t>{joined, a}));
}

TEST(PieceFiles, AVocabularyThatTheyCannotSayIsRefused) {
  using testing::HasSubstr;
  const std::pair<std::string, float> a{"a", -1}, b{"b", -2};
  const auto refusal = [](Vocabulary vocabulary) { return refuses_tokenizer_files(vocabulary); };
  EXPECT_EQ(refusal(pieces({a, b, {"ab", -3}})), "");
  EXPECT_THAT(refusal(pieces({a, b, {"ab", -3}, {"ba", -3}})), HasSubstr("'ab' and 'ba' have one score"));
  EXPECT_THAT(refusal(pieces({a, {"ab", -3}})), HasSubstr("the character 'b', which is no piece"));
  EXPECT_THAT(refusal(pieces({a, b, {"b", -3}})), HasSubstr("two of its tokens are 'b'"));
  EXPECT_THAT(refusal(pieces({a, {"\xFF", -3}})), HasSubstr("not UTF-8"));
  Vocabulary unused = pieces({a, b, {"ab", -3}, {"c", -4}});
  unused.tokens.back().type = TokenType::kUnused;
  EXPECT_EQ(refusal(unused), "");
  unused.tokens[unused.tokens.size() - 2].type = TokenType::kUnused;
  EXPECT_THAT(refusal(unused), HasSubstr("'ab' is merged and taken apart again"));
  Vocabulary empty = pieces({a});
  empty.tokens.push_back({"", 0, TokenType::kControl});
  EXPECT_THAT(refusal(empty), HasSubstr("empty"));
  Vocabulary bytes;
  bytes.pre = "unheard of";
  EXPECT_THAT(refusal(bytes), HasSubstr("'unheard of' is not known"));
}

}  // namespace
}  // namespace retort
