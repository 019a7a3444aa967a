#include <algorithm>

#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/components.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/pattern.h"
#include "core/tokenizer/unicode.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

using PreTokenizerPtr = std::unique_ptr<PreTokenizer>;

// What becomes of the matches of a pattern.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Whether a range joins the one before it.
bool joins(Behavior behavior, bool previous_matched, bool matched) {
  switch (behavior) {
    case Behavior::kMergedWithPrevious: return matched && !previous_matched;
    case Behavior::kMergedWithNext: return previous_matched && !matched;
    case Behavior::kContiguous: return matched == previous_matched;
    default: return false;
  }
}

void split_by(const Pattern& pattern, Behavior behavior, bool invert, std::string_view text, bool at_start,
              const PieceSink& sink) {
  size_t first = 0, last = 0;
  bool previous = false;
  const auto flush = [&] {
    if (last > first && !(previous && behavior == Behavior::kRemoved))
      sink(text.substr(first, last - first), at_start && first == 0);
  };
  bool any = false;
  pattern.ranges(text, [&](size_t begin, size_t end, bool found) {
    const bool matched = found != invert;
    if (!any || !joins(behavior, previous, matched)) {
      flush();
      first = begin;
    }
    last = end;
    previous = matched;
    any = true;
  });
  flush();
}

// Cuts at the matches of one pattern: Split, Digits, Punctuation, Whitespace and so on.
class Splitter : public PreTokenizer {
 public:
  Splitter(std::unique_ptr<Pattern> pattern, Behavior behavior, bool invert = false)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void split(std::string_view text, bool at_start, const PieceSink& sink) const override {
    split_by(*pattern_, behavior_, invert_, text, at_start, sink);
  }

 private:
  std::unique_ptr<Pattern> pattern_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool prefix, std::unique_ptr<Pattern> pattern) : prefix_(prefix), pattern_(std::move(pattern)) {}

  void split(std::string_view text, bool at_start, const PieceSink& sink) const override {
    std::string prefixed, piece;
    if (prefix_ && !text.starts_with(' ')) {
      prefixed.append(1, ' ').append(text);
      text = prefixed;
    }
    const auto emit = [&](std::string_view part, bool part_at_start) {
      piece.clear();
      append_byte_characters(piece, part);
      sink(piece, part_at_start);
    };
    if (pattern_)
      split_by(*pattern_, Behavior::kIsolated, false, text, at_start, emit);
    else
      emit(text, at_start);
  }

 private:
  bool prefix_;
  std::unique_ptr<Pattern> pattern_;
};

enum class PrependScheme { kAlways, kFirst, kNever };

class Metaspace : public PreTokenizer {
 public:
  Metaspace(std::string replacement, PrependScheme scheme, bool cut, std::string_view label)
      : replacement_(std::move(replacement)),
        scheme_(scheme),
        cut_(cut),
        space_(literal_pattern(" ", label)),
        mark_(literal_pattern(replacement_, label)) {}

  void split(std::string_view text, bool at_start, const PieceSink& sink) const override {
    std::string marked = replace_all(*space_, text, replacement_);
    const bool wanted = scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && at_start);
    if (wanted && !marked.starts_with(replacement_)) marked.insert(0, replacement_);
    if (cut_)
      split_by(*mark_, Behavior::kMergedWithNext, false, marked, at_start, sink);
    else
      sink(marked, at_start);
  }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  bool cut_;
  std::unique_ptr<Pattern> space_, mark_;
};

class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(size_t length) : length_(length) {}
  void split(std::string_view text, bool at_start, const PieceSink& sink) const override {
    size_t first = 0, count = 0;
    for (size_t at = 0; at < text.size();) {
      at += decode_utf8(text, at).length;
      if (++count < length_ && at < text.size()) continue;
      sink(text.substr(first, at - first), at_start && first == 0);
      first = at;
      count = 0;
    }
  }

 private:
  size_t length_;  // characters
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<PreTokenizerPtr> parts) : parts_(std::move(parts)) {}
  void split(std::string_view text, bool at_start, const PieceSink& sink) const override {
    run(0, longest_rewrite(text.size()), text, at_start, sink);
  }

 private:
  void run(size_t part, size_t limit, std::string_view text, bool at_start, const PieceSink& sink) const {
    if (part == parts_.size()) return sink(text, at_start);
    if (text.size() > limit) fail("tokenizer", "pre-tokenizer", "the text grows more than 32-fold");
    parts_[part]->split(text, at_start, [&](std::string_view piece, bool piece_at_start) {
      run(part + 1, limit, piece, piece_at_start, sink);
    });
  }

  std::vector<PreTokenizerPtr> parts_;
};

Behavior parse_behavior(const SortedJson& json, const char* fallback, std::string_view label) {
  struct Row {
    std::string_view name;
    Behavior behavior;
  };
  constexpr std::array kBehaviors{Row{"Removed", Behavior::kRemoved}, Row{"Isolated", Behavior::kIsolated},
                                  Row{"MergedWithPrevious", Behavior::kMergedWithPrevious},
                                  Row{"MergedWithNext", Behavior::kMergedWithNext},
                                  Row{"Contiguous", Behavior::kContiguous}};
  const auto name = json_value<std::string>(json, "behavior", fallback, label);
  const auto row = std::find_if(kBehaviors.begin(), kBehaviors.end(), [&](const Row& r) { return r.name == name; });
  if (row == kBehaviors.end()) fail("tokenizer", label, "the split behaviour '" + name + "' is not known");
  return row->behavior;
}

PreTokenizerPtr splitter(bool (*kind)(char32_t), Behavior behavior) {
  return std::make_unique<Splitter>(character_pattern(kind), behavior);
}

PreTokenizerPtr parse_byte_level(const SortedJson& json, std::string_view label) {
  std::unique_ptr<Pattern> pattern;
  if (json_value(json, "use_regex", true, label)) pattern = regex_pattern(kGpt2Pattern, label);
  return std::make_unique<ByteLevel>(json_required<bool>(json, "add_prefix_space", label), std::move(pattern));
}

PreTokenizerPtr parse_split(const SortedJson& json, std::string_view label) {
  return std::make_unique<Splitter>(parse_pattern(json, label), parse_behavior(json, "", label),
                                    json_required<bool>(json, "invert", label));
}

PreTokenizerPtr parse_digits(const SortedJson& json, std::string_view label) {
  const bool single = json_required<bool>(json, "individual_digits", label);
  return splitter(is_number, single ? Behavior::kIsolated : Behavior::kContiguous);
}

PreTokenizerPtr parse_metaspace(const SortedJson& json, std::string_view label) {
  const auto name = json_value<std::string>(json, "prepend_scheme", "always", label);
  PrependScheme scheme = PrependScheme::kAlways;
  if (name == "first")
    scheme = PrependScheme::kFirst;
  else if (name == "never")
    scheme = PrependScheme::kNever;
  else if (name != "always")
    fail("tokenizer", label, "the prepend_scheme '" + name + "' is not known");
  if (!json_value(json, "add_prefix_space", true, label)) scheme = PrependScheme::kNever;
  const auto replacement = json_required<std::string>(json, "replacement", label);
  if (replacement.empty() || decode_utf8(replacement, 0).length != replacement.size())
    fail("tokenizer", label, "Metaspace's replacement is not one character");
  return std::make_unique<Metaspace>(replacement, scheme, json_value(json, "split", true, label), label);
}

PreTokenizerPtr parse_delimiter(const SortedJson& json, std::string_view label) {
  return std::make_unique<Splitter>(literal_pattern(json_required<std::string>(json, "delimiter", label), label),
                                    Behavior::kRemoved);
}

PreTokenizerPtr parse_fixed_length(const SortedJson& json, std::string_view label) {
  const auto length = json_value<uint64_t>(json, "length", 5, label);
  if (length == 0) fail("tokenizer", label, "FixedLength has the length 0");
  return std::make_unique<FixedLength>(length);
}

PreTokenizerPtr parse_whitespace(const SortedJson&, std::string_view) {
  std::vector<PreTokenizerPtr> parts;
  parts.push_back(splitter(is_whitespace, Behavior::kRemoved));
  parts.push_back(splitter(is_word, Behavior::kContiguous));
  return std::make_unique<Sequence>(std::move(parts));
}

PreTokenizerPtr parse_bert(const SortedJson&, std::string_view) {
  std::vector<PreTokenizerPtr> parts;
  parts.push_back(splitter(is_whitespace, Behavior::kRemoved));
  parts.push_back(splitter(is_punctuation, Behavior::kIsolated));
  return std::make_unique<Sequence>(std::move(parts));
}

using Row = ComponentRow<PreTokenizerPtr>;
constexpr std::array kRows{
    Row{"ByteLevel", parse_byte_level},
    Row{"Split", parse_split},
    Row{"Digits", parse_digits},
    Row{"Metaspace", parse_metaspace},
    Row{"Whitespace", parse_whitespace},
    Row{"BertPreTokenizer", parse_bert},
    Row{"CharDelimiterSplit", parse_delimiter},
    Row{"FixedLength", parse_fixed_length},
    Row{"WhitespaceSplit",
        [](const SortedJson&, std::string_view) { return splitter(is_whitespace, Behavior::kRemoved); }},
    Row{"Punctuation",
        [](const SortedJson& json, std::string_view label) {
          return splitter(is_punctuation, parse_behavior(json, "Isolated", label));
        }},
    Row{"Sequence",
        [](const SortedJson& json, std::string_view label) -> PreTokenizerPtr {
          return std::make_unique<Sequence>(parse_sequence(json, "pretokenizers", label, parse_pre_tokenizer));
        }},
};

}  // namespace

std::unique_ptr<PreTokenizer> parse_pre_tokenizer(const SortedJson& json, std::string_view label) {
  if (json.is_null()) return nullptr;
  return parse_component(kRows, "pre-tokenizer", json, label);
}

}  // namespace retort
