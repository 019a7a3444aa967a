// The parts of a tokenizer.json, each parsed from its JSON by a table of names. To add a component: one class and
// one row in the table of its file, and a tokenizer that uses it in tests/oracles/make_tokenizer_goldens.py.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/base/json.h"

namespace retort {

// A stretch of the input between added tokens, on its way through the normalizers.
struct NormalizedText {
  std::string text;
  bool at_start;  // its first character is the first of the whole input
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void normalize(NormalizedText& text) const = 0;
};

// Takes the pieces of a text, none of them empty, in order. `at_start` as above.
using PieceSink = std::function<void(std::string_view piece, bool at_start)>;

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Cuts `text` into pieces (and may rewrite them); they are valid only during the call of `sink`.
  virtual void split(std::string_view text, bool at_start, const PieceSink& sink) const = 0;
};

// What a post-processor puts around the ids of one text.
struct PostProcessor {
  std::vector<int32_t> before, after;
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void decode(std::vector<std::string>& tokens) const = 0;
};

// `json` is the component's object; its "type" picks the row. Unknown types are refused by name. null gives nullptr
// (an empty PostProcessor).
std::unique_ptr<Normalizer> parse_normalizer(const SortedJson& json, std::string_view label);
std::unique_ptr<PreTokenizer> parse_pre_tokenizer(const SortedJson& json, std::string_view label);
PostProcessor parse_post_processor(const SortedJson& json, std::string_view label);
std::unique_ptr<Decoder> parse_decoder(const SortedJson& json, std::string_view label);

// A row of a table of components, and the look-up of the row for `json`.
template <typename Result>
struct ComponentRow {
  std::string_view type;
  Result (*parse)(const SortedJson& json, std::string_view label);
};

template <typename Result, size_t N>
Result parse_component(const std::array<ComponentRow<Result>, N>& rows, std::string_view kind, const SortedJson& json,
                       std::string_view label) {
  const auto type = json_required<std::string>(json, "type", label);
  for (const ComponentRow<Result>& row : rows)
    if (row.type == type) return row.parse(json, label);
  fail("tokenizer", label, "the " + std::string(kind) + " '" + type + "' is not supported");
}

// The components of a Sequence, listed under `key`; those of sequences inside of it take their place.
template <typename Result>
std::vector<Result> parse_sequence(const SortedJson& json, const char* key, std::string_view label,
                                   Result (*parse)(const SortedJson&, std::string_view)) {
  std::vector<Result> parts;
  for (const SortedJson& part : json_required<SortedJson>(json, key, label)) {
    if (json_required<std::string>(part, "type", label) != "Sequence") {
      parts.push_back(parse(part, label));
      continue;
    }
    for (Result& inner : parse_sequence(part, key, label, parse)) parts.push_back(std::move(inner));
  }
  return parts;
}

// A sequence of rewriting components can let a text grow exponentially; no honest one passes this.
inline size_t longest_rewrite(size_t bytes) { return 32 * bytes + (1 << 20); }

}  // namespace retort
