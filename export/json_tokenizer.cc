#include "export/json_tokenizer.h"

#include <algorithm>
#include <span>

#include "core/tokenizer/sentencepiece.h"
#include "core/tokenizer/tokenizer_files.h"

namespace retort {
namespace {

std::string note_of(const SentencePieceSpec& spec) {
  const auto& tokens = spec.vocabulary.tokens;
  const auto piece = std::ranges::find(tokens, TokenType::kUserDefined, &VocabularyEntry::type);
  if (!spec.add_dummy_prefix || piece == tokens.end()) return {};
  return "tokenizer: a text that begins with a user-defined piece, such as '" + piece->text +
         "', has no blank before it in tokenizer.json";
}

}  // namespace

JsonTokenizer json_tokenizer_of(const ModelSource& source) {
  const SideFile *model = source.side_file("tokenizer.model"), *config = source.side_file("tokenizer_config.json");
  if (model == nullptr || source.side_file("tokenizer.json") != nullptr) return {};
  const SentencePieceSpec spec =
      sentencepiece_spec(std::as_bytes(std::span(model->bytes)), config == nullptr ? std::string() : config->bytes,
                         (source.path() / model->name).string());
  if (const std::string refusal = refuses_tokenizer_files(spec); !refusal.empty())
    return {{}, "tokenizer: onnxruntime-genai cannot load it, for no tokenizer.json gives its ids: " + refusal};
  TokenizerFiles made = tokenizer_files_of(spec);
  JsonTokenizer result{{{"tokenizer.json", std::move(made.tokenizer)}}, note_of(spec)};
  if (config == nullptr) result.files.push_back({"tokenizer_config.json", std::move(made.config)});
  return result;
}

}  // namespace retort
