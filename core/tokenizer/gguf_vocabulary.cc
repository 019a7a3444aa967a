#include "core/tokenizer/gguf_vocabulary.h"

#include <algorithm>
#include <cstdlib>
#include <unordered_map>

#include "core/base/error.h"
#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/piece_merges.h"
#include "core/tokenizer/sentencepiece.h"
#include "core/tokenizer/utf8.h"
#include "core/tokenizer/word_boundaries.h"

namespace retort {
namespace {

// ---- tokenizer.json to GGUF ----

// Values that the parsers of the components have checked, or that are absent or null.
std::string text_of(const SortedJson& json, const char* key, const char* fallback = "") {
  const auto value = json.find(key);
  return value != json.end() && value->is_string() ? value->get<std::string>() : fallback;
}

bool flag_of(const SortedJson& json, const char* key, bool fallback) {
  const auto value = json.find(key);
  return value != json.end() && value->is_boolean() ? value->get<bool>() : fallback;
}

// The components of `json`, which may be null, one component or a Sequence of them (of Sequences).
std::vector<SortedJson> flattened(const SortedJson& json, const char* key) {
  if (!json.is_object()) return {};
  if (text_of(json, "type") != "Sequence") return {json};
  std::vector<SortedJson> parts;
  for (const SortedJson& part : json.value(key, SortedJson::array()))
    for (SortedJson& inner : flattened(part, key)) parts.push_back(std::move(inner));
  return parts;
}

// The patterns that one pre-tokenizer cuts at; false where it does something else.
bool append_patterns(const SortedJson& part, std::vector<std::string>& patterns) {
  const std::string type = text_of(part, "type");
  if (type == "Digits") {
    patterns.push_back(flag_of(part, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
    return true;
  }
  if (type != "Split" || !part.at("pattern").contains("Regex")) return false;
  const std::string behavior = text_of(part, "behavior");
  const bool inverted = flag_of(part, "invert", false);  // keeping the matches alone is the same where they cover all
  patterns.push_back(part.at("pattern").at("Regex").get<std::string>());
  return (behavior == "Isolated" && !inverted) || (behavior == "Removed" && inverted);
}

// A pattern with \x{...}, \r, \n and \t as the characters they stand for, to compare spellings.
std::string spelled_out(std::string_view pattern) {
  std::string out;
  for (size_t at = 0; at < pattern.size();) {
    unsigned long value = 0;
    const size_t end = pattern.find('}', at);
    if (pattern.substr(at).starts_with("\\x{") && end != std::string_view::npos) {
      value = std::strtoul(std::string(pattern.substr(at + 3, end - at - 3)).c_str(), nullptr, 16);
      append_utf8(out, static_cast<char32_t>(value));
      at = end + 1;
      continue;
    }
    const std::string_view pair = pattern.substr(at, 2);
    const char plain = pair == "\\r" ? '\r' : pair == "\\n" ? '\n' : pair == "\\t" ? '\t' : '\0';
    out += plain ? std::string(1, plain) : std::string(pair.substr(0, pair.front() == '\\' ? 2 : 1));
    at += pair.front() == '\\' ? pair.size() : 1;
  }
  return out;
}

// The name under which GGUF knows these pre-tokenizers; empty: none.
std::string gguf_name(const std::vector<SortedJson>& parts, bool ignore_merges) {
  if (parts.empty() || text_of(parts.back(), "type") != "ByteLevel" || flag_of(parts.back(), "add_prefix_space", true))
    return {};
  std::vector<std::string> patterns;
  for (size_t i = 0; i + 1 < parts.size(); ++i)
    if (!append_patterns(parts[i], patterns)) return {};
  if (flag_of(parts.back(), "use_regex", true)) patterns.emplace_back(kGpt2Pattern);
  for (const GgufPreTokenizer& row : gguf_pre_tokenizers())
    if (row.ignore_merges == ignore_merges &&
        std::equal(patterns.begin(), patterns.end(), row.patterns.begin(), row.patterns.end(),
                   [](std::string_view a, std::string_view b) { return spelled_out(a) == spelled_out(b); }))
      return std::string(row.names.front());
  return {};
}

std::string byte_level_name(const SortedJson& json, const Bpe& model) {
  for (const SortedJson& part : flattened(json.value("normalizer", SortedJson()), "normalizers"))
    if (text_of(part, "type") != "NFC") return {};
  const BpeSpec& spec = model.spec();
  if (!spec.prefix.empty() || !spec.suffix.empty()) return {};
  return gguf_name(flattened(json.value("pre_tokenizer", SortedJson()), "pretokenizers"), spec.ignore_merges);
}

// How blanks become U+2581 and whether one is put before the text, if that is all that is done to a text.
std::optional<bool> space_prefix(const SortedJson& json) {
  std::vector<SortedJson> parts = flattened(json.value("normalizer", SortedJson()), "normalizers");
  for (SortedJson& part : flattened(json.value("pre_tokenizer", SortedJson()), "pretokenizers"))
    parts.push_back(std::move(part));
  bool replaced = false, prefixed = false;
  for (const SortedJson& part : parts) {
    const std::string type = text_of(part, "type");
    if (type == "Prepend" && (text_of(part, "prepend") == kSpaceMark || text_of(part, "prepend") == " ")) {
      prefixed = true;
    } else if (type == "Replace" && text_of(part.at("pattern"), "String") == " " &&
               text_of(part, "content") == kSpaceMark) {
      replaced = true;
    } else if (type == "Metaspace" && text_of(part, "replacement") == kSpaceMark) {
      replaced = true;
      prefixed = text_of(part, "prepend_scheme", "always") != "never" && flag_of(part, "add_prefix_space", true);
    } else {
      return std::nullopt;
    }
  }
  return replaced ? std::optional(prefixed) : std::nullopt;
}

// Scores that make SentencePiece merge in the order of a BPE's merges: the token made by the first merge scores
// highest. With `sharing`, runs of blanks have one score, as in Llama 2. False where that cannot be: a token that can
// be put together from tokens without a merge that says so, or merges for two tokens that take turns.
bool scores_from_merges(const BpeSpec& spec, bool sharing, std::vector<VocabularyEntry>& tokens) {
  const auto owner = [&](const std::string& text) {
    return sharing && repeated_character(text) == kSpaceMark ? std::string(kSpaceMark) : text;
  };
  std::unordered_map<std::string, size_t> order, count;  // by owner its rank among them, by merged token its merges
  const MergedPair* last = nullptr;
  for (const MergedPair& merge : spec.merges) {
    const std::string text = merge.first + merge.second, name = owner(text);
    const auto [entry, fresh] = order.emplace(name, order.size());
    if (!fresh && owner(last->first + last->second) != name) return false;
    if (!fresh && name != text && !longer_first(*last, merge)) return false;
    last = &merge;
    ++count[text];
  }
  for (const auto& [text, id] : spec.vocabulary) {
    size_t splits = 0;
    for (size_t at = 0; at < text.size(); ++at)
      if (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) != 0x80)
        splits += spec.vocabulary.contains(text.substr(0, at)) && spec.vocabulary.contains(text.substr(at)) ? 1 : 0;
    const TokenType type = tokens[static_cast<size_t>(id)].type;
    if (type != TokenType::kNormal) continue;
    const auto merges = count.find(text);
    if (splits != (merges == count.end() ? 0 : merges->second)) return false;
    tokens[static_cast<size_t>(id)].score =
        -static_cast<float>(merges == count.end() ? order.size() + static_cast<size_t>(id) : order[owner(text)]);
  }
  return true;
}

std::optional<int32_t> id_of(const std::optional<std::string>& text, const Pipeline& pipeline) {
  if (!text) return std::nullopt;
  if (const AddedToken* token = pipeline.added.find(*text)) return token->id;
  const auto known = pipeline.model.vocabulary().find(*text);
  return known == pipeline.model.vocabulary().end() ? std::nullopt : std::optional(known->second);
}

bool is_byte_name(const std::string& text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>') &&
         text.find_first_not_of("0123456789ABCDEF", 3) == 5;
}

std::vector<VocabularyEntry> entries_of(const Pipeline& pipeline, const std::optional<int32_t>& unknown) {
  std::vector<VocabularyEntry> tokens;
  const auto at = [&](int32_t id) -> VocabularyEntry& {
    if (static_cast<size_t>(id) >= tokens.size())
      tokens.resize(static_cast<size_t>(id) + 1, {"", 0, TokenType::kUnused});
    return tokens[static_cast<size_t>(id)];
  };
  const bool bytes = pipeline.model.spec().byte_fallback;
  for (const auto& [text, id] : pipeline.model.vocabulary())
    at(id) = {text, 0, bytes && is_byte_name(text) ? TokenType::kByte : TokenType::kNormal};
  for (const AddedToken& token : pipeline.added.tokens())
    at(token.id) = {token.content, 0, token.special ? TokenType::kControl : TokenType::kUserDefined, token.strip_left,
                    token.strip_right};
  if (unknown && bytes) at(*unknown).type = TokenType::kUnknown;
  for (size_t id = 0; id < tokens.size(); ++id)
    if (tokens[id].text.empty()) tokens[id].text = "[PAD" + std::to_string(id) + "]";
  return tokens;
}

// Whether BOS in front and EOS behind, or neither, are all that is put around a text: GGUF can say no more.
bool adds_no_more(const PostProcessor& post, const Vocabulary& vocabulary) {
  return post.before.size() == (vocabulary.add_bos ? 1 : 0) && post.after.size() == (vocabulary.add_eos ? 1 : 0);
}

bool uses_byte_level(const SortedJson& json) {
  for (const SortedJson& part : flattened(json.value("pre_tokenizer", SortedJson()), "pretokenizers"))
    if (text_of(part, "type") == "ByteLevel") return true;
  return !flag_of(json.at("model"), "byte_fallback", false);
}

bool phi3_strips(const VocabularyEntry& token) {
  if (token.text == "</s>") return true;
  if (token.text == "<unk>" || token.text == "<s>" || token.text == "<|endoftext|>") return false;
  return token.type == TokenType::kControl || token.type == TokenType::kUserDefined ||
         token.type == TokenType::kUnknown;
}

// ---- GGUF to tokenizers ----

BpeSpec bpe_spec(const Vocabulary& vocabulary, bool ignore_merges, std::string_view label) {
  BpeSpec spec;
  spec.ignore_merges = ignore_merges;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const VocabularyEntry& token = vocabulary.tokens[id];
    const bool plain =
        token.type == TokenType::kNormal || token.type == TokenType::kUnused || token.type == TokenType::kByte;
    if (plain && !spec.vocabulary.emplace(token.text, static_cast<int32_t>(id)).second)
      fail("tokenizer", label, "the token '" + token.text + "' is there twice");
  }
  for (const std::string& merge : vocabulary.merges) {
    const size_t blank = merge.find(' ', 1);  // a merge may begin with a blank of its own
    if (blank == std::string::npos) fail("tokenizer", label, "the merge '" + merge + "' is not a pair");
    spec.merges.emplace_back(merge.substr(0, blank), merge.substr(blank + 1));
  }
  return spec;
}

std::unique_ptr<Tokenizer> byte_level_tokenizer(Vocabulary vocabulary, std::string_view label) {
  const GgufPreTokenizer* row = find_gguf_pre_tokenizer(vocabulary.pre);
  if (!row) fail("tokenizer", label, "the pre-tokenizer '" + vocabulary.pre + "' is not known");
  PostProcessor post;
  if (vocabulary.add_bos && vocabulary.bos) post.before.push_back(*vocabulary.bos);
  if (vocabulary.add_eos && vocabulary.eos) post.after.push_back(*vocabulary.eos);
  Pipeline pipeline{.added = {},
                    .normalizer = nullptr,
                    .pre_tokenizer = parse_pre_tokenizer(pre_tokenizer_json(*row), label),
                    .model = Bpe(bpe_spec(vocabulary, row->ignore_merges, label), label),
                    .post_processor = std::move(post),
                    .decoder = parse_decoder({{"type", "ByteLevel"}}, label),
                    .vocabulary = {}};
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const VocabularyEntry& token = vocabulary.tokens[id];
    const bool special = token.type == TokenType::kControl || token.type == TokenType::kUnknown;
    if (special || token.type == TokenType::kUserDefined)
      pipeline.added.add({.content = token.text,
                          .id = static_cast<int32_t>(id),
                          .strip_left = token.strip_left,
                          .strip_right = token.strip_right,
                          .special = special},
                         {});
  }
  pipeline.added.finish(nullptr);
  pipeline.vocabulary = std::move(vocabulary);
  return make_pipeline_tokenizer(std::move(pipeline), label);
}

}  // namespace

bool names_phi3(std::string_view general_name) {
  std::string name(general_name);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
}

bool strips_as_phi3(const Vocabulary& vocabulary) {
  return std::ranges::any_of(vocabulary.tokens, &VocabularyEntry::strips) &&
         std::ranges::all_of(vocabulary.tokens, [](const VocabularyEntry& token) {
           return !token.strip_left && token.strip_right == phi3_strips(token);
         });
}

void strip_as_phi3(Vocabulary& vocabulary) {
  for (VocabularyEntry& token : vocabulary.tokens) token.strip_right = phi3_strips(token);
}

SortedJson pre_tokenizer_json(const GgufPreTokenizer& row) {
  SortedJson parts = SortedJson::array();
  for (const std::string_view pattern : row.patterns)
    parts.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  parts.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", parts}};
}

Vocabulary describe_for_gguf(const SortedJson& json, const Pipeline& pipeline, const TokenizerConfig& config) {
  Vocabulary result;
  const BpeSpec& spec = pipeline.model.spec();
  result.kind = uses_byte_level(json) ? Vocabulary::Kind::kByteLevelBpe : Vocabulary::Kind::kSentencePiece;
  result.bos = id_of(config.bos, pipeline);
  result.eos = id_of(config.eos, pipeline);
  result.unknown = id_of(spec.unknown ? spec.unknown : config.unknown, pipeline);
  result.padding = id_of(config.padding, pipeline);
  const PostProcessor& post = pipeline.post_processor;
  result.add_bos = result.bos && !post.before.empty() && post.before.front() == *result.bos;
  result.add_eos = result.eos && !post.after.empty() && post.after.back() == *result.eos;
  result.tokens = entries_of(pipeline, result.unknown);
  for (const auto& [left, right] : spec.merges) result.merges.push_back(left + " " + right);
  if (result.kind == Vocabulary::Kind::kByteLevelBpe) {
    result.add_space_prefix = false;
    if (adds_no_more(post, result)) result.pre = byte_level_name(json, pipeline.model);
    return result;
  }
  const std::optional<bool> prefix = space_prefix(json);
  result.add_space_prefix = prefix.value_or(true);
  const bool scored = scores_from_merges(spec, false, result.tokens) || scores_from_merges(spec, true, result.tokens);
  if (scored && prefix && !spec.ignore_merges && adds_no_more(post, result)) result.pre = "default";
  return result;
}

std::unique_ptr<Tokenizer> tokenizer_from_vocabulary(Vocabulary vocabulary, std::string_view label) {
  if (static_cast<int64_t>(vocabulary.tokens.size()) > kMostTokens)
    fail("tokenizer", label, "the vocabulary has too many tokens");
  for (const VocabularyEntry& token : vocabulary.tokens)
    if (valid_utf8_prefix(token.text) != token.text.size()) fail("tokenizer", label, "a token is not UTF-8");
  for (const auto& id : {vocabulary.bos, vocabulary.eos, vocabulary.unknown, vocabulary.padding})
    if (id && (*id < 0 || static_cast<size_t>(*id) >= vocabulary.tokens.size()))
      fail("tokenizer", label, "the special token " + std::to_string(*id) + " is not in the vocabulary");
  if (vocabulary.kind == Vocabulary::Kind::kSentencePiece)
    return make_sentencepiece_tokenizer(spec_of_pieces(std::move(vocabulary)), label);
  return byte_level_tokenizer(std::move(vocabulary), label);
}

}  // namespace retort
