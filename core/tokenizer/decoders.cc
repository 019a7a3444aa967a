#include <algorithm>
#include <charconv>

#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/components.h"
#include "core/tokenizer/pattern.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

using DecoderPtr = std::unique_ptr<Decoder>;

std::string concatenated(const std::vector<std::string>& tokens) {
  std::string all;
  for (const std::string& token : tokens) all += token;
  return all;
}

class ByteLevel : public Decoder {
 public:
  void decode(std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) append_bytes(bytes, token);
    tokens.assign(1, replace_invalid_utf8(bytes));
  }

 private:
  // A token with a character outside of the alphabet (an added token) is taken as it is.
  static void append_bytes(std::string& bytes, const std::string& token) {
    const size_t before = bytes.size();
    bool all = true;
    for_each_character(token, [&](char32_t c) {
      const auto byte = byte_of_character(c);
      all = all && byte.has_value();
      if (byte) bytes.push_back(static_cast<char>(*byte));
    });
    if (!all) bytes.replace(before, std::string::npos, token);
  }
};

// "<0x0A>"
std::optional<uint8_t> byte_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  uint8_t value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return value;
}

class ByteFallback : public Decoder {
 public:
  void decode(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (valid_utf8_prefix(bytes) == bytes.size())
        out.push_back(bytes);
      else
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = byte_token(token)) {
        bytes.push_back(static_cast<char>(*byte));
        continue;
      }
      flush();
      out.push_back(std::move(token));
    }
    flush();
    tokens = std::move(out);
  }
};

class Fuse : public Decoder {
 public:
  void decode(std::vector<std::string>& tokens) const override { tokens.assign(1, concatenated(tokens)); }
};

class Replace : public Decoder {
 public:
  Replace(std::unique_ptr<Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void decode(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) token = replace_all(*pattern_, token, content_);
  }

 private:
  std::unique_ptr<Pattern> pattern_;
  std::string content_;
};

// Up to `start` and `stop` copies of one character taken off the ends of every token.
class Strip : public Decoder {
 public:
  Strip(std::string content, uint64_t start, uint64_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void decode(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (uint64_t i = 0; i < start_ && rest.starts_with(content_); ++i) rest.remove_prefix(content_.size());
      for (uint64_t i = 0; i < stop_ && rest.ends_with(content_); ++i) rest.remove_suffix(content_.size());
      token = std::string(rest);
    }
  }

 private:
  std::string content_;
  uint64_t start_, stop_;
};

class Metaspace : public Decoder {
 public:
  Metaspace(std::string replacement, bool prepends) : replacement_(std::move(replacement)), prepends_(prepends) {}
  void decode(std::vector<std::string>& tokens) const override {
    const auto pattern = literal_pattern(replacement_, "Metaspace");
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = replace_all(*pattern, tokens[i], i == 0 && prepends_ ? "" : " ");
  }

 private:
  std::string replacement_;
  bool prepends_;
};

class BpeDecoder : public Decoder {
 public:
  explicit BpeDecoder(std::string suffix, std::string_view label) : suffix_(literal_pattern(suffix, label)) {}
  void decode(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = replace_all(*suffix_, tokens[i], i + 1 == tokens.size() ? "" : " ");
  }

 private:
  std::unique_ptr<Pattern> suffix_;
};

class Sequence : public Decoder {
 public:
  explicit Sequence(std::vector<DecoderPtr> parts) : parts_(std::move(parts)) {}
  void decode(std::vector<std::string>& tokens) const override {
    for (const DecoderPtr& part : parts_) part->decode(tokens);
  }

 private:
  std::vector<DecoderPtr> parts_;
};

template <typename Kind>
DecoderPtr make(const SortedJson&, std::string_view) {
  return std::make_unique<Kind>();
}

DecoderPtr parse_replace(const SortedJson& json, std::string_view label) {
  return std::make_unique<Replace>(parse_pattern(json, label), json_required<std::string>(json, "content", label));
}

DecoderPtr parse_strip(const SortedJson& json, std::string_view label) {
  auto content = json_required<std::string>(json, "content", label);
  if (content.empty()) fail("tokenizer", label, "the decoder Strip has an empty content");
  return std::make_unique<Strip>(std::move(content), json_required<uint64_t>(json, "start", label),
                                 json_required<uint64_t>(json, "stop", label));
}

DecoderPtr parse_metaspace(const SortedJson& json, std::string_view label) {
  auto replacement = json_required<std::string>(json, "replacement", label);
  if (replacement.empty()) fail("tokenizer", label, "the decoder Metaspace has an empty replacement");
  const bool never = json_value<std::string>(json, "prepend_scheme", "always", label) == "never" ||
                     !json_value(json, "add_prefix_space", true, label);
  return std::make_unique<Metaspace>(std::move(replacement), !never);
}

DecoderPtr parse_bpe(const SortedJson& json, std::string_view label) {
  return std::make_unique<BpeDecoder>(json_required<std::string>(json, "suffix", label), label);
}

DecoderPtr parse_all(const SortedJson& json, std::string_view label) {
  return std::make_unique<Sequence>(parse_sequence(json, "decoders", label, parse_decoder));
}

using Row = ComponentRow<DecoderPtr>;
constexpr std::array kRows{Row{"ByteLevel", make<ByteLevel>}, Row{"ByteFallback", make<ByteFallback>},
                           Row{"Fuse", make<Fuse>},           Row{"Replace", parse_replace},
                           Row{"Strip", parse_strip},         Row{"Metaspace", parse_metaspace},
                           Row{"BPEDecoder", parse_bpe},      Row{"Sequence", parse_all}};

}  // namespace

std::unique_ptr<Decoder> parse_decoder(const SortedJson& json, std::string_view label) {
  if (json.is_null()) return nullptr;
  return parse_component(kRows, "decoder", json, label);
}

}  // namespace retort
