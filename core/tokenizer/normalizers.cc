#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/components.h"
#include "core/tokenizer/pattern.h"
#include "core/tokenizer/unicode.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

using NormalizerPtr = std::unique_ptr<Normalizer>;

template <NormalForm form>
class UnicodeForm : public Normalizer {
 public:
  void normalize(NormalizedText& text) const override { text.text = retort::normalize(text.text, form); }
};

class Lowercase : public Normalizer {
 public:
  void normalize(NormalizedText& text) const override { text.text = lowercase(text.text); }
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void normalize(NormalizedText& text) const override {
    if (!text.text.empty()) text.text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(std::unique_ptr<Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void normalize(NormalizedText& text) const override {
    const std::string_view before = text.text;
    std::string after;
    after.reserve(before.size());
    pattern_->ranges(before, [&](size_t begin, size_t end, bool matched) {
      after += matched ? std::string_view(content_) : before.substr(begin, end - begin);
      // What replaces several characters counts as being where the last of them was.
      const bool shifts = content_.empty() || end > decode_utf8(before, 0).length;
      if (matched && begin == 0 && end > 0 && shifts) text.at_start = false;
    });
    text.text = std::move(after);
  }

 private:
  std::unique_ptr<Pattern> pattern_;
  std::string content_;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void normalize(NormalizedText& text) const override {
    size_t begin = text.text.size(), end = 0;  // of what is not blank
    for (size_t at = 0; at < text.text.size();) {
      const CodePoint c = decode_utf8(text.text, at);
      if (!is_whitespace(c.value)) {
        begin = std::min(begin, at);
        end = at + c.length;
      }
      at += c.length;
    }
    if (right_) text.text.resize(end);
    if (left_ && begin > 0) {
      text.text.erase(0, begin);
      text.at_start = false;
    }
  }

 private:
  bool left_, right_;
};

// Drops characters; what is left does not begin the input when its first character was dropped.
void remove_characters(NormalizedText& text, bool (*removed)(char32_t)) {
  std::string kept;
  kept.reserve(text.text.size());
  bool first = true;
  for_each_character(text.text, [&](char32_t c) {
    if (!removed(c))
      append_utf8(kept, c);
    else if (first)
      text.at_start = false;
    first = false;
  });
  text.text = std::move(kept);
}

class StripAccents : public Normalizer {
 public:
  void normalize(NormalizedText& text) const override { remove_characters(text, is_mark); }
};

class ByteCharacters : public Normalizer {
 public:
  void normalize(NormalizedText& text) const override { text.text = to_byte_characters(text.text); }
};

void map_characters(NormalizedText& text, char32_t (*map)(char32_t)) {
  std::string out;
  out.reserve(text.text.size());
  for_each_character(text.text, [&](char32_t c) { append_utf8(out, map(c)); });
  text.text = std::move(out);
}

// SentencePiece's "nmt" rules: controls dropped, other kinds of blanks made spaces.
class Nmt : public Normalizer {
 public:
  void normalize(NormalizedText& text) const override {
    remove_characters(text, [](char32_t c) {
      return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
    });
    map_characters(text, [](char32_t c) {
      const bool blank = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                         c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
      return blank ? U' ' : c;
    });
  }
};

class Bert : public Normalizer {
 public:
  Bert(bool clean, bool chinese, bool accents, bool lower)
      : clean_(clean), chinese_(chinese), accents_(accents), lower_(lower) {}

  void normalize(NormalizedText& text) const override {
    if (clean_) {
      remove_characters(text, [](char32_t c) {
        return c == 0 || c == 0xFFFD || (is_other(c) && c != '\t' && c != '\n' && c != '\r');
      });
      map_characters(text, [](char32_t c) { return is_whitespace(c) ? U' ' : c; });
    }
    if (chinese_) space_ideographs(text.text);
    if (accents_) {
      text.text = retort::normalize(text.text, NormalForm::kNfd);
      remove_characters(text, is_nonspacing_mark);
    }
    if (lower_) text.text = lowercase(text.text);
  }

 private:
  static bool is_ideograph(char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }

  static void space_ideographs(std::string& text) {
    std::string out;
    out.reserve(text.size());
    for_each_character(text, [&](char32_t c) {
      const bool spaced = is_ideograph(c);
      if (spaced) out += ' ';
      append_utf8(out, c);
      if (spaced) out += ' ';
    });
    text = std::move(out);
  }

  bool clean_, chinese_, accents_, lower_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<NormalizerPtr> parts) : parts_(std::move(parts)) {}
  void normalize(NormalizedText& text) const override {
    const size_t limit = longest_rewrite(text.text.size());
    for (const NormalizerPtr& part : parts_) {
      part->normalize(text);
      if (text.text.size() > limit) fail("tokenizer", "normalizer", "the text grows more than 32-fold");
    }
  }

 private:
  std::vector<NormalizerPtr> parts_;
};

template <typename Kind>
NormalizerPtr make(const SortedJson&, std::string_view) {
  return std::make_unique<Kind>();
}

NormalizerPtr parse_precompiled(const SortedJson& json, std::string_view label) {
  if (!json_value<std::string>(json, "precompiled_charsmap", "", label).empty())
    fail("tokenizer", label, "the normalizer 'Precompiled' with a character map is not supported");
  return std::make_unique<Sequence>(std::vector<NormalizerPtr>());
}

NormalizerPtr parse_bert(const SortedJson& json, std::string_view label) {
  const bool lower = json_required<bool>(json, "lowercase", label);
  return std::make_unique<Bert>(json_required<bool>(json, "clean_text", label),
                                json_required<bool>(json, "handle_chinese_chars", label),
                                json_value<bool>(json, "strip_accents", lower, label), lower);
}

constexpr std::array kRows{
    ComponentRow<NormalizerPtr>{"NFC", make<UnicodeForm<NormalForm::kNfc>>},
    ComponentRow<NormalizerPtr>{"NFD", make<UnicodeForm<NormalForm::kNfd>>},
    ComponentRow<NormalizerPtr>{"NFKC", make<UnicodeForm<NormalForm::kNfkc>>},
    ComponentRow<NormalizerPtr>{"NFKD", make<UnicodeForm<NormalForm::kNfkd>>},
    ComponentRow<NormalizerPtr>{"Lowercase", make<Lowercase>},
    ComponentRow<NormalizerPtr>{"StripAccents", make<StripAccents>},
    ComponentRow<NormalizerPtr>{"ByteLevel", make<ByteCharacters>},
    ComponentRow<NormalizerPtr>{"Nmt", make<Nmt>},
    ComponentRow<NormalizerPtr>{"BertNormalizer", parse_bert},
    ComponentRow<NormalizerPtr>{"Precompiled", parse_precompiled},
    ComponentRow<NormalizerPtr>{"Prepend",
                                [](const SortedJson& json, std::string_view label) -> NormalizerPtr {
                                  return std::make_unique<Prepend>(json_required<std::string>(json, "prepend", label));
                                }},
    ComponentRow<NormalizerPtr>{"Replace",
                                [](const SortedJson& json, std::string_view label) -> NormalizerPtr {
                                  return std::make_unique<Replace>(parse_pattern(json, label),
                                                                   json_required<std::string>(json, "content", label));
                                }},
    ComponentRow<NormalizerPtr>{"Strip",
                                [](const SortedJson& json, std::string_view label) -> NormalizerPtr {
                                  return std::make_unique<Strip>(json_required<bool>(json, "strip_left", label),
                                                                 json_required<bool>(json, "strip_right", label));
                                }},
    ComponentRow<NormalizerPtr>{"Sequence",
                                [](const SortedJson& json, std::string_view label) -> NormalizerPtr {
                                  return std::make_unique<Sequence>(
                                      parse_sequence(json, "normalizers", label, parse_normalizer));
                                }},
};

}  // namespace

std::unique_ptr<Normalizer> parse_normalizer(const SortedJson& json, std::string_view label) {
  if (json.is_null()) return nullptr;
  return parse_component(kRows, "normalizer", json, label);
}

}  // namespace retort
