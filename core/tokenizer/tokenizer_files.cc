// The files of Hugging Face for a vocabulary of GGUF or SentencePiece: what that says, in the terms of tokenizer.json.
#include "core/tokenizer/tokenizer_files.h"

#include <algorithm>
#include <unordered_set>

#include "core/base/json.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/gguf_vocabulary.h"
#include "core/tokenizer/piece_merges.h"
#include "core/tokenizer/sentencepiece.h"
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
                     {"lstrip", token.strip_left},
                     {"rstrip", token.strip_right},
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

// The blank before a text. If also after tokens that are found by their text: what transformers makes of a Llama 2
// (convert_slow_tokenizer.py, LlamaConverter, legacy). If at the start alone: Metaspace knows where that is, but adds
// its mark only where the text begins with another character. So its mark is a blank, of which the text has none left.
void describe_prefix(bool after_special, SortedJson& json) {
  const auto metaspace = [](std::string_view mark, const char* scheme) {
    return SortedJson{{"type", "Metaspace"}, {"replacement", mark}, {"prepend_scheme", scheme}, {"split", false}};
  };
  SortedJson& normalizers = json["normalizer"]["normalizers"];
  if (after_special)
    normalizers.insert(normalizers.begin(), SortedJson{{"type", "Prepend"}, {"prepend", kSpaceMark}});
  else
    json["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", {metaspace(" ", "first"), metaspace(kSpaceMark, "never")}}};
  json["decoder"]["decoders"].push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
}

// Merges are pairs: onnxruntime-genai takes the carriage returns out of "left right".
void describe_pieces(const SentencePieceSpec& spec, SortedJson& json) {
  const Vocabulary& vocabulary = spec.vocabulary;
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", SortedJson::array({replaced(" ", kSpaceMark)})}};
  json["decoder"] = {{"type", "Sequence"},
                     {"decoders", {replaced(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}};
  if (spec.add_dummy_prefix) describe_prefix(spec.prefix_after_special, json);
  SortedJson& model = json["model"];
  if (vocabulary.unknown) model["unk_token"] = vocabulary.tokens[static_cast<size_t>(*vocabulary.unknown)].text;
  model["fuse_unk"] = true;
  model["byte_fallback"] = spec.byte_fallback;
  model["merges"] = SortedJson::array();
  for (const auto& [left, right] : merges_of_pieces(vocabulary).merges)
    model["merges"].push_back(SortedJson::array({left, right}));
}

bool has_blank(const VocabularyEntry& token) {
  return token.text.find(kSpaceMark) != std::string::npos || token.text.find(' ') != std::string::npos;
}

// What only a tokenizer.model can ask for. Its user-defined pieces are found after blanks have become marks.
std::string refuses_rules(const SentencePieceSpec& spec) {
  if (!spec.charsmap.empty()) return "it has rules of normalization";
  if (spec.remove_extra_whitespaces) return "it makes one blank of several";
  if (!spec.escape_whitespaces) return "its blanks stay blanks";
  if (spec.whitespace_as_suffix) return "its blanks stand behind words";
  for (const VocabularyEntry& token : spec.vocabulary.tokens)
    if (!spec.prefix_after_special && token.type == TokenType::kUserDefined && has_blank(token))
      return "its piece '" + token.text + "' is user-defined and has a blank";
  return {};
}

std::string refuses_texts(const Vocabulary& vocabulary) {
  std::unordered_set<std::string_view> texts;
  for (const VocabularyEntry& token : vocabulary.tokens) {
    if (!texts.insert(token.text).second) return "two of its tokens are '" + token.text + "'";
    if (is_added(token) && token.text.empty()) return "one of its special tokens is empty";
    if (valid_utf8_prefix(token.text) != token.text.size()) return "one of its tokens is not UTF-8";
  }
  for (const std::string& merge : vocabulary.merges)
    if (valid_utf8_prefix(merge) != merge.size()) return "one of its merges is not UTF-8";
  return {};
}

template <typename Describe>
TokenizerFiles described(const Vocabulary& vocabulary, const Describe& describe) {
  SortedJson json{{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", added_tokens_json(vocabulary)},
                  {"normalizer", nullptr},
                  {"pre_tokenizer", nullptr},
                  {"post_processor", post_processor_json(vocabulary)},
                  {"decoder", nullptr},
                  {"model", model_json(vocabulary)}};
  describe(json);
  return {json.dump(1) + "\n", config_json(vocabulary).dump(2) + "\n"};
}

}  // namespace

std::string refuses_tokenizer_files(const SentencePieceSpec& spec) {
  if (const std::string refusal = refuses_rules(spec); !refusal.empty()) return refusal;
  const std::string refusal = refuses_texts(spec.vocabulary);
  return refusal.empty() ? merges_of_pieces(spec.vocabulary).refusal : refusal;
}

std::string refuses_tokenizer_files(const Vocabulary& vocabulary) {
  if (vocabulary.kind == Vocabulary::Kind::kSentencePiece) return refuses_tokenizer_files(spec_of_pieces(vocabulary));
  if (const std::string refusal = refuses_texts(vocabulary); !refusal.empty()) return refusal;
  return find_gguf_pre_tokenizer(vocabulary.pre) == nullptr ? "its pre-tokenizer '" + vocabulary.pre + "' is not known"
                                                            : std::string();
}

TokenizerFiles tokenizer_files_of(const SentencePieceSpec& spec) {
  return described(spec.vocabulary, [&](SortedJson& json) { describe_pieces(spec, json); });
}

TokenizerFiles tokenizer_files_of(const Vocabulary& vocabulary) {
  if (vocabulary.kind == Vocabulary::Kind::kSentencePiece) return tokenizer_files_of(spec_of_pieces(vocabulary));
  return described(vocabulary, [&](SortedJson& json) { describe_byte_level(vocabulary, json); });
}

}  // namespace retort
