// The files of Hugging Face for a vocabulary of GGUF: what that says, in the terms of tokenizer.json.
#include "core/tokenizer/tokenizer_files.h"

#include <algorithm>
#include <unordered_set>

#include "core/base/json.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/gguf_vocabulary.h"
#include "core/tokenizer/piece_merges.h"
#include "core/tokenizer/utf8.h"
#include "core/tokenizer/word_boundaries.h"

namespace retort {
namespace {

bool is_added(const VocabularyEntry& token) {
  return token.type == TokenType::kControl || token.type == TokenType::kUnknown ||
         token.type == TokenType::kUserDefined;
}

// Tokens that are added by their text belong to the model's own vocabulary where ids of plain tokens follow theirs:
// otherwise the tokenizers library would number them anew. The unknown token always does.
SortedJson ids_json(const Vocabulary& vocabulary) {
  size_t plain_end = vocabulary.tokens.size();
  while (plain_end > 0 && is_added(vocabulary.tokens[plain_end - 1])) --plain_end;
  if (vocabulary.unknown) plain_end = std::max(plain_end, static_cast<size_t>(*vocabulary.unknown) + 1);
  SortedJson ids = SortedJson::object();
  for (size_t id = 0; id < plain_end; ++id) ids.emplace(vocabulary.tokens[id].text, id);
  return ids;
}

SortedJson model_json(const Vocabulary& vocabulary) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", ids_json(vocabulary)},
          {"merges", vocabulary.merges}};
}

SortedJson added_tokens_json(const Vocabulary& vocabulary) {
  SortedJson added = SortedJson::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const VocabularyEntry& token = vocabulary.tokens[id];
    if (!is_added(token)) continue;
    added.push_back({{"id", id},
                     {"content", token.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", token.type != TokenType::kUserDefined}});
  }
  return added;
}

SortedJson post_processor_json(const Vocabulary& vocabulary) {
  SortedJson single = SortedJson::array(), specials = SortedJson::object();
  const auto special = [&](int32_t id) {
    const std::string& text = vocabulary.tokens[static_cast<size_t>(id)].text;
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
  };
  if (vocabulary.add_bos && vocabulary.bos) special(*vocabulary.bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (vocabulary.add_eos && vocabulary.eos) special(*vocabulary.eos);
  SortedJson pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

SortedJson config_json(const Vocabulary& vocabulary) {
  SortedJson config{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, const std::optional<int32_t>& id) {
    if (id) config[key] = vocabulary.tokens[static_cast<size_t>(*id)].text;
  };
  name("bos_token", vocabulary.bos);
  name("eos_token", vocabulary.eos);
  name("unk_token", vocabulary.unknown);
  name("pad_token", vocabulary.padding);
  config["add_bos_token"] = vocabulary.add_bos && vocabulary.bos;
  config["add_eos_token"] = vocabulary.add_eos && vocabulary.eos;
  return config;
}

// ---- byte-level BPE ----

void describe_byte_level(const Vocabulary& vocabulary, SortedJson& json) {
  const GgufPreTokenizer& row = *find_gguf_pre_tokenizer(vocabulary.pre);
  json["pre_tokenizer"] = pre_tokenizer_json(row);
  json["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  json["model"]["ignore_merges"] = row.ignore_merges;
}

// ---- SentencePiece ----

SortedJson replaced(std::string_view what, std::string_view by) {
  return {{"type", "Replace"}, {"pattern", {{"String", what}}}, {"content", by}};
}

// A blank stands before the text and after each token that is found by its text, as llama.cpp has it. What transformers
// makes of a Llama 2 (convert_slow_tokenizer.py, LlamaConverter, legacy).
void describe_pieces(const Vocabulary& vocabulary, SortedJson& json) {
  SortedJson normalizers = SortedJson::array();
  if (vocabulary.add_space_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  normalizers.push_back(replaced(" ", kSpaceMark));
  SortedJson decoders = {replaced(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (vocabulary.add_space_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  json["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  SortedJson& model = json["model"];
  if (vocabulary.unknown) model["unk_token"] = vocabulary.tokens[static_cast<size_t>(*vocabulary.unknown)].text;
  model["fuse_unk"] = true;
  model["byte_fallback"] =
      std::ranges::any_of(vocabulary.tokens, [](const auto& token) { return token.type == TokenType::kByte; });
  model["merges"] = SortedJson::array();
  for (const auto& [left, right] : merges_of_pieces(vocabulary).merges) model["merges"].push_back(left + " " + right);
}

}  // namespace

std::string refuses_tokenizer_files(const Vocabulary& vocabulary) {
  std::unordered_set<std::string_view> texts;
  for (const VocabularyEntry& token : vocabulary.tokens) {
    if (!texts.insert(token.text).second) return "two of its tokens are '" + token.text + "'";
    if (is_added(token) && token.text.empty()) return "one of its special tokens is empty";
    if (valid_utf8_prefix(token.text) != token.text.size()) return "one of its tokens is not UTF-8";
  }
  for (const std::string& merge : vocabulary.merges)
    if (valid_utf8_prefix(merge) != merge.size()) return "one of its merges is not UTF-8";
  if (vocabulary.kind == Vocabulary::Kind::kSentencePiece) return merges_of_pieces(vocabulary).refusal;
  return find_gguf_pre_tokenizer(vocabulary.pre) == nullptr ? "its pre-tokenizer '" + vocabulary.pre + "' is not known"
                                                            : std::string();
}

TokenizerFiles tokenizer_files_of(const Vocabulary& vocabulary) {
  SortedJson json{{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", added_tokens_json(vocabulary)},
                  {"normalizer", nullptr},
                  {"pre_tokenizer", nullptr},
                  {"post_processor", post_processor_json(vocabulary)},
                  {"decoder", nullptr},
                  {"model", model_json(vocabulary)}};
  const bool pieces = vocabulary.kind == Vocabulary::Kind::kSentencePiece;
  pieces ? describe_pieces(vocabulary, json) : describe_byte_level(vocabulary, json);
  return {json.dump(1) + "\n", config_json(vocabulary).dump(2) + "\n"};
}

}  // namespace retort
