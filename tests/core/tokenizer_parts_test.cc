// The parts of the tokenizers on their own: BPE against the textbook, refusals, repair of UTF-8, concurrency.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "core/base/error.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/flat_map.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/pattern.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

using testing::HasSubstr;

// Sennrich et al. 2016, algorithm 1, applied: as long as some pair of neighbours has a merge, the pair of the lowest
// rank is merged where it stands leftmost.
std::vector<std::string> textbook_bpe(std::vector<std::string> symbols,
                                      const std::vector<std::pair<std::string, std::string>>& merges) {
  while (true) {
    size_t best_rank = merges.size(), best_at = 0;
    for (size_t at = 0; at + 1 < symbols.size(); ++at)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (merges[rank] == std::pair(symbols[at], symbols[at + 1])) {
          best_rank = rank;
          best_at = at;
        }
    if (best_rank == merges.size()) return symbols;
    symbols[best_at] += symbols[best_at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

BpeSpec random_spec(std::mt19937& random) {
  BpeSpec spec;
  std::vector<std::string> tokens{"a", "b", "c"};
  for (const std::string& token : tokens) spec.vocabulary.emplace(token, static_cast<int32_t>(spec.vocabulary.size()));
  while (spec.merges.size() < 12) {
    const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
    if (!spec.vocabulary.emplace(left + right, static_cast<int32_t>(spec.vocabulary.size())).second) continue;
    tokens.push_back(left + right);
    spec.merges.emplace_back(left, right);
  }
  return spec;
}

TEST(BpeTest, MergesAsTheTextbookDoes) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const BpeSpec spec = random_spec(random);
    const Bpe model(spec, "random");
    Bpe::Session session(model);
    for (int word = 0; word < 10; ++word) {
      std::string text;
      std::vector<std::string> symbols;
      for (size_t i = 0; i < 1 + random() % 40; ++i) symbols.emplace_back(1, static_cast<char>('a' + random() % 3));
      for (const std::string& symbol : symbols) text += symbol;
      std::vector<int32_t> expected, ids;
      for (const std::string& token : textbook_bpe(symbols, spec.merges)) expected.push_back(spec.vocabulary.at(token));
      session.encode(text, ids);
      ASSERT_EQ(ids, expected) << text;
    }
  }
}

TEST(FlatMapTest, HoldsWhatAMapHolds) {
  std::mt19937_64 random(3);
  FlatMap<int> map;
  std::unordered_map<uint64_t, int> expected;
  EXPECT_EQ(map.find(1), nullptr);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t key = random() % 5000;
    map.set(key, i);
    expected[key] = i;
  }
  EXPECT_EQ(map.size(), expected.size());
  for (uint64_t key = 0; key < 6000; ++key) {
    const int* value = map.find(key);
    ASSERT_EQ(value != nullptr, expected.contains(key)) << key;
    if (value) {
      EXPECT_EQ(*value, expected[key]);
    }
  }
}

// Python: bytes.fromhex(...).decode("utf-8", errors="replace")
TEST(Utf8Test, RepairsAsPythonDoes) {
  const std::string kBad = "\xEF\xBF\xBD";
  EXPECT_EQ(replace_invalid_utf8("a\xFF"
                                 "b"),
            "a" + kBad + "b");
  EXPECT_EQ(replace_invalid_utf8("\xC3"), kBad);
  EXPECT_EQ(replace_invalid_utf8("\xC3("), kBad + "(");
  EXPECT_EQ(replace_invalid_utf8("\xE2\x82("), kBad + "(");
  EXPECT_EQ(replace_invalid_utf8("\xE2("), kBad + "(");
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x98"), kBad);
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), kBad + kBad + kBad) << "half of a surrogate pair";
  EXPECT_EQ(replace_invalid_utf8("\xC0\xAF"), kBad + kBad) << "longer than need be";
  EXPECT_EQ(replace_invalid_utf8("\xF4\x90\x80\x80"), kBad + kBad + kBad + kBad) << "beyond U+10FFFF";
  EXPECT_EQ(replace_invalid_utf8("0123456789\xE6\x97\xA5 0123456789"), "0123456789\xE6\x97\xA5 0123456789");
}

std::string refusal(const std::string& json) {
  try {
    tokenizer_from_json(json, "", "x.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string with(const std::string& part) {
  return R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})" + (part.empty() ? "" : "," + part) +
         "}";
}

TEST(TokenizerRefusal, NamesWhatIsNotSupported) {
  EXPECT_EQ(refusal(with("")), "");
  for (const char* type : {"WordPiece", "Unigram", "WordLevel"})
    EXPECT_THAT(refusal(R"({"model":{"type":")" + std::string(type) + R"(","vocab":{}}})"),
                HasSubstr(std::string("type ") + type));
  EXPECT_THAT(refusal(with(R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Magic"}]})")),
              HasSubstr("normalizer 'Magic'"));
  EXPECT_THAT(refusal(with(R"("normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"})")),
              HasSubstr("'Precompiled'"));
  EXPECT_THAT(refusal(with(R"("pre_tokenizer":{"type":"UnicodeScripts"})")),
              HasSubstr("pre-tokenizer 'UnicodeScripts'"));
  EXPECT_THAT(refusal(with(R"("decoder":{"type":"WordPiece","prefix":"##","cleanup":true})")),
              HasSubstr("decoder 'WordPiece'"));
  EXPECT_THAT(refusal(with(R"("post_processor":{"type":"Other"})")), HasSubstr("post-processor 'Other'"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","dropout":0.1,"vocab":{"a":0},"merges":[]}})"), HasSubstr("dropout"));
}

TEST(TokenizerRefusal, FindsDamage) {
  EXPECT_THAT(refusal("{}"), HasSubstr("no tokenizer model"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("no tokenizer model"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","merges":[]}})"), HasSubstr("no vocabulary"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","vocab":{"a":99999999},"merges":[]}})"), HasSubstr("out of range"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}})"), HasSubstr("out of range"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}})"),
              HasSubstr("two tokens have the id 0"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a c"]}})"),
              HasSubstr("not in the vocabulary"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}})"), HasSubstr("not a pair"));
  EXPECT_THAT(refusal(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[["a"]]}})"), HasSubstr("not a pair"));
  EXPECT_THAT(
      refusal(with(R"("post_processor":{"type":"TemplateProcessing","single":[],"pair":[],"special_tokens":{}})")),
      HasSubstr("exactly once"));
  EXPECT_THAT(
      refusal(with(
          R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}}],"pair":[],"special_tokens":{}})")),
      HasSubstr("'x' is not among"));
  EXPECT_THAT(
      refusal(with(R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated","invert":false})")),
      HasSubstr("regular expression"));
}

TEST(TokenizerRefusal, BoundsWhatHostileFilesCanDo) {
  std::string doubling = R"("normalizer":{"type":"Sequence","normalizers":[)";
  for (int i = 0; i < 40; ++i) doubling += R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"},)";
  doubling += R"({"type":"NFC"}]})";
  const auto growing = tokenizer_from_json(with(doubling), "", "growing");
  EXPECT_THROW(growing->encode(std::string(1 << 16, 'a')), Error);
  const auto pattern = regex_pattern("(a+)+$", "slow");
  EXPECT_THROW(pattern->ranges(std::string(60, 'a') + "b", [](size_t, size_t, bool) {}), Error);
}

TEST(PatternTest, RefusesWhatPcre2CannotSay) {
  for (const char* expression :
       {"(?~a)", "(?<name>a)", "a(?i)b", "\\y", "[a", "[]", "\\p{L", "(?u:a)", "\\xzz", "[[:nothing:]]", "\\C-a"})
    EXPECT_THROW(regex_pattern(expression, "x"), Error) << expression;
}

TEST(TokenizerTest, EncodesFromManyThreadsAtOnce) {
  const auto tokenizer =
      tokenizer_from_json(with(R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false})"), "", "threads");
  std::string text;
  for (int i = 0; i < 2000; ++i) text += i % 3 ? "ab ba" : "aab";
  const auto expected = tokenizer->encode(text);
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = tokenizer->encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

Vocabulary small_vocabulary() {
  Vocabulary vocabulary;
  vocabulary.pre = "gpt-2";
  vocabulary.tokens = {{"<s>", 0, TokenType::kControl}, {"a"}, {"b"}, {"ab"}, {"<tool>", 0, TokenType::kUserDefined}};
  vocabulary.merges = {"a b"};
  vocabulary.bos = 0;
  vocabulary.add_bos = true;
  return vocabulary;
}

TEST(GgufVocabulary, MakesATokenizer) {
  const auto tokenizer = tokenizer_from_vocabulary(small_vocabulary(), "small");
  EXPECT_EQ(tokenizer->encode("ab<tool>b<s>"), (std::vector<int32_t>{0, 3, 4, 2, 0}));
  EXPECT_EQ(tokenizer->encode("ab<tool>a", false), (std::vector<int32_t>{3, 4, 1}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 3, 4}, true), "ab<tool>");
}

TEST(GgufVocabulary, RefusesWhatItDoesNotKnow) {
  Vocabulary unknown = small_vocabulary();
  unknown.pre = "llama-99";
  EXPECT_THAT([&] { tokenizer_from_vocabulary(unknown, "x"); },
              testing::ThrowsMessage<Error>(HasSubstr("'llama-99' is not known")));
  Vocabulary outside = small_vocabulary();
  outside.eos = 5;
  EXPECT_THROW(tokenizer_from_vocabulary(outside, "x"), Error);
  Vocabulary unpaired = small_vocabulary();
  unpaired.merges = {"ab"};
  EXPECT_THROW(tokenizer_from_vocabulary(unpaired, "x"), Error);
}

TEST(GgufVocabulary, EveryPatternOfTheTableCompiles) {
  for (const GgufPreTokenizer& row : gguf_pre_tokenizers())
    for (const std::string_view pattern : row.patterns)
      EXPECT_NO_THROW(regex_pattern(pattern, row.names.front())) << row.names.front();
}

}  // namespace
}  // namespace retort
