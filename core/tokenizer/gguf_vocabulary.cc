#include "core/tokenizer/gguf_vocabulary.h"

namespace retort {
namespace {

std::optional<int32_t> id_of(const std::optional<std::string>& text, const Pipeline& pipeline) {
  if (!text) return std::nullopt;
  if (const AddedToken* token = pipeline.added.find(*text)) return token->id;
  const auto known = pipeline.model.vocabulary().find(*text);
  return known == pipeline.model.vocabulary().end() ? std::nullopt : std::optional(known->second);
}

}  // namespace

Vocabulary describe_for_gguf(const SortedJson& json, const Pipeline& pipeline, const TokenizerConfig& config) {
  Vocabulary result;
  const auto at = [&](int32_t id) -> VocabularyEntry& {
    if (static_cast<size_t>(id) >= result.tokens.size()) result.tokens.resize(static_cast<size_t>(id) + 1);
    return result.tokens[static_cast<size_t>(id)];
  };
  for (const auto& [text, id] : pipeline.model.vocabulary()) at(id).text = text;
  for (const AddedToken& token : pipeline.added.tokens())
    at(token.id) = {token.content, 0, token.special ? TokenType::kControl : TokenType::kUserDefined};
  for (const auto& [left, right] : pipeline.model.spec().merges) result.merges.push_back(left + " " + right);
  result.bos = id_of(config.bos, pipeline);
  result.eos = id_of(config.eos, pipeline);
  result.unknown = id_of(config.unknown, pipeline);
  result.padding = id_of(config.padding, pipeline);
  const PostProcessor& post = pipeline.post_processor;
  result.add_bos = result.bos && !post.before.empty() && post.before.front() == *result.bos;
  result.add_eos = result.eos && !post.after.empty() && post.after.back() == *result.eos;
  const SortedJson& pre = json.contains("pre_tokenizer") ? json["pre_tokenizer"] : SortedJson();
  if (pre.is_object() && pre.value("type", "") == "ByteLevel") result.pre = "gpt-2";
  return result;
}

}  // namespace retort
