#include "export/gguf_end_tokens.h"

#include <algorithm>
#include <array>

namespace retort {
namespace {

// llama-vocab.cpp of llama.cpp: what it stops at by the text, as far as its older versions do so too.
constexpr std::array<std::string_view, 7> kTurnEnds{"<|eot_id|>", "<|im_end|>", "<|end|>",           "<end_of_turn>",
                                                    "<EOT>",      "_<EOT>",     "<end_of_utterance>"};
constexpr std::array<std::string_view, 4> kTextEnds{"<|endoftext|>", "<|end_of_text|>", "<|return|>", "<|call|>"};
constexpr std::string_view kMessageEnd = "<|eom_id|>";

bool ends_turn(std::string_view text) { return std::ranges::find(kTurnEnds, text) != kTurnEnds.end(); }
bool ends_message(std::string_view text) { return text == kMessageEnd; }

}  // namespace

bool llama_cpp_stops_at(std::string_view text) {
  return ends_turn(text) || ends_message(text) || std::ranges::find(kTextEnds, text) != kTextEnds.end();
}

std::string_view text_of_token(const Vocabulary& vocabulary, int64_t id) {
  const bool known = id >= 0 && id < static_cast<int64_t>(vocabulary.tokens.size());
  return known ? std::string_view(vocabulary.tokens[static_cast<size_t>(id)].text) : std::string_view();
}

GgufEndTokens gguf_end_tokens(const ModelConfig& config, const Vocabulary& vocabulary) {
  GgufEndTokens ends;
  std::vector<int64_t> others = config.eos_ids;
  if (!others.empty()) ends.eos = others.front();
  if (vocabulary.eos) ends.eos = *vocabulary.eos;
  const auto text = [&](int64_t id) { return text_of_token(vocabulary, id); };
  // The first of the others that is one takes the place.
  const auto place = [&](std::optional<int64_t>& to, auto is_one) {
    const auto found = std::ranges::find_if(others, is_one);
    if (to || found == others.end()) return;
    to = *found;
    others.erase(found);
  };
  std::erase(others, ends.eos);
  place(ends.eot, [&](int64_t id) { return ends_turn(text(id)); });
  place(ends.eom, [&](int64_t id) { return ends_message(text(id)); });
  std::ranges::stable_partition(others, [&](int64_t id) { return !llama_cpp_stops_at(text(id)); });
  const auto free = [&](auto is_one) {
    return std::ranges::none_of(vocabulary.tokens, is_one, &VocabularyEntry::text);
  };
  if (free(ends_turn)) place(ends.eot, [](int64_t) { return true; });
  if (free(ends_message)) place(ends.eom, [](int64_t) { return true; });
  std::erase_if(others, [&](int64_t id) { return llama_cpp_stops_at(text(id)); });
  ends.unsaid = std::move(others);
  return ends;
}

}  // namespace retort
