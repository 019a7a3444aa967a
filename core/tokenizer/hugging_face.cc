// tokenizer.json and tokenizer_config.json, read as transformers 5 and tokenizers 0.2x read them.
#include "core/base/error.h"
#include "core/tokenizer/gguf_vocabulary.h"
#include "core/tokenizer/pipeline.h"
#include "core/tokenizer/special_tokens.h"

namespace retort {
namespace {

// The value of `key`, null where it is absent.
const SortedJson& part(const SortedJson& json, const char* key) {
  static const SortedJson kNull;
  const auto value = json.find(key);
  return value == json.end() ? kNull : *value;
}

// The tokens of tokenizer.json first; tokenizer_config.json may change their flags and add more.
AddedTokens read_added_tokens(const SortedJson& json, const TokenizerConfig& config, const TokenIds& vocabulary,
                              std::string_view label) {
  AddedTokens added;
  for (const SortedJson& token : part(json, "added_tokens")) added.add(parse_added_token(token, label), vocabulary);
  for (const AddedToken& token : config.added) added.add(token, vocabulary);
  for (const AddedToken& token : config.special) added.add_special(token, vocabulary);
  return added;
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_from_json(std::string_view tokenizer, std::string_view config_text,
                                               std::string_view label) {
  const SortedJson json = parse_sorted_json(tokenizer, label);
  if (!json.is_object() || !part(json, "model").is_object())
    fail("tokenizer", label, "there is no tokenizer model in it");
  const TokenizerConfig config = parse_tokenizer_config(config_text, label);
  Pipeline pipeline{.added = {},
                    .normalizer = parse_normalizer(part(json, "normalizer"), label),
                    .pre_tokenizer = parse_pre_tokenizer(part(json, "pre_tokenizer"), label),
                    .model = Bpe(parse_bpe(part(json, "model"), label), label),
                    .post_processor = parse_post_processor(part(json, "post_processor"), label),
                    .decoder = parse_decoder(part(json, "decoder"), label),
                    .vocabulary = {}};
  pipeline.added = read_added_tokens(json, config, pipeline.model.vocabulary(), label);
  pipeline.added.finish(pipeline.normalizer.get());
  pipeline.vocabulary = describe_for_gguf(json, pipeline, config);
  return make_pipeline_tokenizer(std::move(pipeline), label);
}

}  // namespace retort
