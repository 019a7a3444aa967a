// The vocabularies of GGUF files, against llama.cpp's own vectors; and the way from tokenizer.json to GGUF and back.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "core/base/files.h"
#include "core/checkpoint/gguf.h"
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

class GgufVectors : public testing::TestWithParam<const char*> {};

TEST_P(GgufVectors, EqualLlamaCpp) {
  const fs::path base = kShared / "tokenizers/ggml-vocab" / (std::string("ggml-vocab-") + GetParam() + ".gguf");
  if (!fs::exists(base)) GTEST_SKIP() << base << " is absent: llama.cpp's vectors are not compared";
  const auto tokenizer = open_tokenizer(base);
  const auto texts = split_at(read_text_file(base.string() + ".inp"), "\n__ggml_vocab_test__\n");
  const auto expected = split_at(read_text_file(base.string() + ".out"), "\n");
  ASSERT_GE(expected.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer->encode(texts[i], false), numbers(expected[i])) << i << " '" << texts[i] << "'";
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(texts[i], false)), texts[i]);
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
  const auto files = tokenizer_files_of(original->vocabulary());
  ASSERT_EQ(files.has_value(), original->vocabulary().kind == Vocabulary::Kind::kByteLevelBpe);
  if (!files) return;
  const auto rebuilt = tokenizer_from_json(files->tokenizer, files->config, "rebuilt");
  EXPECT_EQ(rebuilt->size(), original->size());
  EXPECT_EQ(rebuilt->vocabulary().bos, original->vocabulary().bos);
  EXPECT_EQ(rebuilt->vocabulary().eos, original->vocabulary().eos);
  EXPECT_EQ(rebuilt->vocabulary().pre, original->vocabulary().pre);
  std::string specials;
  for (const VocabularyEntry& token : original->vocabulary().tokens)
    if (token.type == TokenType::kControl) specials += "x" + token.text;
  EXPECT_EQ(rebuilt->encode(specials), original->encode(specials));
  const fs::path book = kShared / "text/books-dev/moonstone.md";
  for (const std::string& text : split_at(read_text_file(book).substr(0, 100000), "\n\n"))
    ASSERT_EQ(rebuilt->encode(text), original->encode(text)) << text;
}

}  // namespace
}  // namespace retort
