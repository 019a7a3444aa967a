// The files of Hugging Face for a byte-level vocabulary: what GGUF says of it, in the terms of tokenizer.json.
#include "core/tokenizer/tokenizer_files.h"

#include "core/base/json.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/gguf_vocabulary.h"

namespace retort {
namespace {

bool is_added(const VocabularyEntry& token) {
  return token.type == TokenType::kControl || token.type == TokenType::kUnknown ||
         token.type == TokenType::kUserDefined;
}

// Tokens that are added by their text belong to the model's own vocabulary where ids of plain tokens follow theirs:
// otherwise the tokenizers library would number them anew.
SortedJson model_json(const Vocabulary& vocabulary, bool ignore_merges) {
  size_t plain_end = vocabulary.tokens.size();
  while (plain_end > 0 && is_added(vocabulary.tokens[plain_end - 1])) --plain_end;
  SortedJson ids = SortedJson::object();
  for (size_t id = 0; id < plain_end; ++id) ids.emplace(vocabulary.tokens[id].text, id);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", ignore_merges},
          {"vocab", std::move(ids)},
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
  return config;
}

}  // namespace

std::optional<TokenizerFiles> tokenizer_files_of(const Vocabulary& vocabulary) {
  const GgufPreTokenizer* row = find_gguf_pre_tokenizer(vocabulary.pre);
  if (vocabulary.kind != Vocabulary::Kind::kByteLevelBpe || row == nullptr) return std::nullopt;
  const SortedJson byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const SortedJson json{{"version", "1.0"},
                        {"truncation", nullptr},
                        {"padding", nullptr},
                        {"added_tokens", added_tokens_json(vocabulary)},
                        {"normalizer", nullptr},
                        {"pre_tokenizer", pre_tokenizer_json(*row)},
                        {"post_processor", post_processor_json(vocabulary)},
                        {"decoder", byte_level},
                        {"model", model_json(vocabulary, row->ignore_merges)}};
  return TokenizerFiles{json.dump(1) + "\n", config_json(vocabulary).dump(2) + "\n"};
}

}  // namespace retort
