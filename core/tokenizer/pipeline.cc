#include "core/tokenizer/pipeline.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

class PipelineTokenizer : public Tokenizer {
 public:
  PipelineTokenizer(Pipeline pipeline, std::string_view label) : parts_(std::move(pipeline)) {
    for (const auto& [text, id] : parts_.model.vocabulary()) place(id, text, label);
    for (size_t i = 0; i < parts_.added.tokens().size(); ++i) {
      const int32_t id = parts_.added.tokens()[i].id;
      const std::string& form = parts_.added.decoded_form(i);
      if (static_cast<size_t>(id) < texts_.size()) texts_[id].clear();
      place(id, form, label);
    }
    // The reference tells special tokens by their text when it decodes.
    special_.resize(texts_.size());
    for (const AddedToken& token : parts_.added.tokens())
      if (token.special) special_texts_.emplace(token.content, token.id);
    for (size_t id = 0; id < texts_.size(); ++id) special_[id] = special_texts_.contains(texts_[id]);
  }

  std::vector<int32_t> encode(std::string_view text, bool special) const override {
    std::string repaired;
    if (valid_utf8_prefix(text) != text.size()) text = repaired = replace_invalid_utf8(text);
    std::vector<int32_t> ids;
    if (special) ids = parts_.post_processor.before;
    Bpe::Session session(parts_.model);
    parts_.added.split_raw(text, special, [&](int32_t id, size_t begin, size_t end) {
      if (id >= 0)
        ids.push_back(id);
      else
        encode_stretch(text.substr(begin, end - begin), begin == 0, special, session, ids);
    });
    if (special) ids.insert(ids.end(), parts_.post_processor.after.begin(), parts_.post_processor.after.end());
    return ids;
  }

  std::string decode(std::span<const int32_t> ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id < 0 || id >= size() || texts_[id].empty() || (skip_special && special_[id])) continue;
      tokens.push_back(texts_[id]);
    }
    if (parts_.decoder) parts_.decoder->decode(tokens);
    std::string text;
    for (const std::string& token : tokens) {
      if (!parts_.decoder && !text.empty()) text += ' ';
      text += token;
    }
    return text;
  }

  int64_t size() const override { return static_cast<int64_t>(texts_.size()); }
  const Vocabulary& vocabulary() const override { return parts_.vocabulary; }

 private:
  void place(int32_t id, const std::string& text, std::string_view label) {
    if (static_cast<size_t>(id) >= texts_.size()) texts_.resize(static_cast<size_t>(id) + 1);
    if (!texts_[id].empty()) fail("tokenizer", label, "two tokens have the id " + std::to_string(id));
    texts_[id] = text;
  }

  // A stretch between the added tokens that are looked for in the raw text.
  void encode_stretch(std::string_view stretch, bool at_start, bool special, Bpe::Session& session,
                      std::vector<int32_t>& ids) const {
    NormalizedText normalized{{}, at_start};
    if (parts_.normalizer) {
      normalized.text = stretch;
      parts_.normalizer->normalize(normalized);
      stretch = normalized.text;
    }
    const PieceSink model = [&](std::string_view piece, bool) { session.encode(piece, ids); };
    parts_.added.split_normalized(stretch, special, [&](int32_t id, size_t begin, size_t end) {
      const std::string_view piece = stretch.substr(begin, end - begin);
      if (id >= 0)
        ids.push_back(id);
      else if (parts_.pre_tokenizer)
        parts_.pre_tokenizer->split(piece, normalized.at_start && begin == 0, model);
      else
        model(piece, true);
    });
  }

  Pipeline parts_;
  std::vector<std::string> texts_;  // by id, as decoders see them; empty: no such token
  TokenIds special_texts_;
  std::vector<bool> special_;  // by id
};

}  // namespace

std::unique_ptr<Tokenizer> make_pipeline_tokenizer(Pipeline pipeline, std::string_view label) {
  return std::make_unique<PipelineTokenizer>(std::move(pipeline), label);
}

}  // namespace retort
