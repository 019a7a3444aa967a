#include "core/tokenizer/regex_syntax.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <vector>

#include "core/base/error.h"

namespace retort {
namespace {

constexpr int kMaxDepth = 100;

// Bodies of character classes: Oniguruma's sets for UTF-8.
constexpr std::string_view kSpace =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kLoneWord =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";  // not in [...]
constexpr std::string_view kHexDigit = "0-9A-Fa-f";

struct NamedSet {
  std::string_view name, body;
};

// Names of \p{...} that PCRE2 does not know, in lower case without blanks, hyphens and underscores.
constexpr std::array kProperties{
    NamedSet{"alpha", "\\p{Alphabetic}"},
    NamedSet{"alnum", "\\p{Alphabetic}\\p{Nd}"},
    NamedSet{"digit", "\\p{Nd}"},
    NamedSet{"space", kSpace},
    NamedSet{"word", kWord},
    NamedSet{"upper", "\\p{Uppercase}"},
    NamedSet{"lower", "\\p{Lowercase}"},
    NamedSet{"punct", "\\p{P}"},
    NamedSet{"cntrl", "\\p{Cc}"},
    NamedSet{"xdigit", kHexDigit},
    NamedSet{"blank", "\\p{Zs}\\t"},
    NamedSet{"letter", "\\p{L}"},
    NamedSet{"uppercaseletter", "\\p{Lu}"},
    NamedSet{"lowercaseletter", "\\p{Ll}"},
    NamedSet{"titlecaseletter", "\\p{Lt}"},
    NamedSet{"modifierletter", "\\p{Lm}"},
    NamedSet{"otherletter", "\\p{Lo}"},
    NamedSet{"mark", "\\p{M}"},
    NamedSet{"nonspacingmark", "\\p{Mn}"},
    NamedSet{"number", "\\p{N}"},
    NamedSet{"decimalnumber", "\\p{Nd}"},
    NamedSet{"punctuation", "\\p{P}"},
    NamedSet{"connectorpunctuation", "\\p{Pc}"},
    NamedSet{"symbol", "\\p{S}"},
    NamedSet{"separator", "\\p{Z}"},
    NamedSet{"other", "\\p{C}"},
};

const NamedSet* find_property(std::string_view name) {
  return std::find_if(kProperties.begin(), kProperties.end(), [&](const NamedSet& s) { return s.name == name; });
}

// One set of characters as a class item and, when it can only be written as a class of its own, in brackets.
struct Set {
  std::string body;
  bool negated = false;
  std::string bracketed() const { return (negated ? "[^" : "[") + body + "]"; }
};

class Translator {
 public:
  Translator(std::string_view source, std::string_view label) : source_(source), label_(label) {}

  std::string run() {
    while (!done()) step();
    return out_;
  }

 private:
  bool done() const { return at_ >= source_.size(); }
  char peek(size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }
  bool starts_with(std::string_view text) const { return source_.substr(at_).starts_with(text); }

  [[noreturn]] void refuse(std::string_view what) const {
    fail(
        "tokenizer", label_,
        "the regular expression '" + std::string(source_) + "' uses " + std::string(what) + ", which is not supported");
  }

  // One construct of the expression. An atom's start in `out_` is remembered for the quantifiers that follow it.
  void step() {
    const char c = peek();
    if (c == '(') return open_group();
    if (c == ')') return close_group();
    if (is_quantifier()) return quantifier();
    atom_ = out_.size();
    if (c == '[') {
      out_ += character_class(0);
    } else if (c == '\\') {
      escape();
    } else {
      out_ += c;
      ++at_;
      while (!done() && (static_cast<unsigned char>(peek()) & 0xC0) == 0x80) out_ += source_[at_++];
    }
  }

  void open_group() {
    groups_.push_back(out_.size());
    if (groups_.size() > kMaxDepth) refuse("groups nested too deep");
    if (peek(1) != '?') {
      out_ += '(';
      ++at_;
      return;
    }
    for (const std::string_view plain : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"})
      if (starts_with(plain)) {
        out_ += plain;
        at_ += plain.size();
        return;
      }
    if (starts_with("(?#")) return comment();
    options();
  }

  void comment() {
    groups_.pop_back();
    const size_t end = source_.find(')', at_);
    at_ = end == std::string_view::npos ? source_.size() : end + 1;
  }

  // (?im-x) and (?i:...): Ruby's m is PCRE2's s. Options that begin in the middle of a branch bind differently.
  void options() {
    const size_t end = source_.find_first_of(":)", at_);
    const std::string_view flags = end == std::string_view::npos ? "<" : source_.substr(at_ + 2, end - at_ - 2);
    if (flags.find_first_not_of("imx-") != std::string_view::npos)
      refuse("a group of the form '(?" + std::string(flags.substr(0, 4)) + "'");
    const bool in_branch = !out_.empty() && out_.back() != '(' && out_.back() != '|';
    if (source_[end] == ')' && in_branch) refuse("options in the middle of a branch");
    out_ += "(?";
    for (const char flag : flags) out_ += flag == 'm' ? 's' : flag;
    out_ += source_[end];
    if (source_[end] == ')') groups_.pop_back();
    at_ = end + 1;
  }

  void close_group() {
    if (groups_.empty()) refuse("a closing bracket without an opening one");
    atom_ = groups_.back();
    groups_.pop_back();
    out_ += ')';
    ++at_;
  }

  // The length of {n}, {n,}, {,m} or {n,m} here; 0: none, and a brace stands for itself.
  size_t interval() const {
    if (peek() != '{') return 0;
    const size_t end = source_.find('}', at_);
    if (end == std::string_view::npos) return 0;
    const std::string_view body = source_.substr(at_ + 1, end - at_ - 1);
    const bool digits = std::all_of(body.begin(), body.end(),
                                    [](char c) { return c == ',' || std::isdigit(static_cast<unsigned char>(c)); });
    if (!digits || body.empty() || body == "," || std::count(body.begin(), body.end(), ',') > 1) return 0;
    return end + 1 - at_;
  }

  bool is_quantifier() const {
    return atom_.has_value() && (peek() == '*' || peek() == '+' || peek() == '?' || interval() > 0);
  }

  void quantifier() {
    const size_t length = interval();
    if (length == 0) {
      out_ += source_[at_++];
      if (peek() == '?' || peek() == '+') out_ += source_[at_++];
      return;
    }
    const std::string_view body = source_.substr(at_ + 1, length - 2);
    out_ += body.front() == ',' ? "{0" + std::string(body) + "}" : "{" + std::string(body) + "}";
    at_ += length;
    const bool fixed = body.find(',') == std::string_view::npos;
    if (peek() == '+' || (peek() == '?' && fixed)) {  // in Ruby a quantifier of its own
      out_.insert(*atom_, "(?:");
      out_ += ')';
    } else if (peek() == '?') {
      out_ += source_[at_++];
    }
  }

  void escape() {
    if (const std::optional<Set> set = escaped_set(kLoneWord)) {
      out_ += set->bracketed();
      return;
    }
    const char c = peek(1);
    if (c == 'b' || c == 'B') {
      const std::string word = "[" + std::string(kLoneWord) + "]";
      const std::string boundary = c == 'b' ? "(?:(?<=W)(?!W)|(?<!W)(?=W))" : "(?:(?<=W)(?=W)|(?<!W)(?!W))";
      for (const char part : boundary) part == 'W' ? out_ += word : out_ += part;
      at_ += 2;
    } else if (std::string_view("AzZGRXKN").find(c) != std::string_view::npos || (c >= '1' && c <= '9')) {
      out_ += source_.substr(at_, 2);
      at_ += 2;
    } else {
      out_ += escaped_character();
    }
  }

  // \s \S \w \W \h \H \d \D \p{..} \P{..} at the current position; `word` is the set behind \w.
  std::optional<Set> escaped_set(std::string_view word) {
    const char c = peek(1);
    const auto simple = [&](std::string_view body, bool negated) {
      at_ += 2;
      return Set{std::string(body), negated};
    };
    switch (c) {
      case 's': return simple(kSpace, false);
      case 'S': return simple(kSpace, true);
      case 'w': return simple(word, false);
      case 'W': return simple(word, true);
      case 'h': return simple(kHexDigit, false);
      case 'H': return simple(kHexDigit, true);
      case 'd': return simple("\\p{Nd}", false);
      case 'D': return simple("\\p{Nd}", true);
      case 'p':
      case 'P': return property();
      default: return std::nullopt;
    }
  }

  Set property() {
    const size_t end = source_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) refuse("\\p without a name in braces");
    std::string_view name = source_.substr(at_ + 3, end - at_ - 3);
    const bool caret = name.starts_with('^');
    if (caret) name.remove_prefix(1);
    std::string key;
    for (const char c : name) {
      if (c == ' ' || c == '_' || c == '-') continue;
      if (!std::isalnum(static_cast<unsigned char>(c))) refuse("the property '" + std::string(name) + "'");
      key += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    const bool negated = (peek(1) == 'P') != caret;
    at_ = end + 1;
    const auto known = find_property(key);
    return {known == kProperties.end() ? "\\p{" + std::string(name) + "}" : std::string(known->body), negated};
  }

  // An escaped single character, written so that it means the same inside and outside of a class.
  std::string escaped_character() {
    const char c = peek(1);
    if (c == '\0') refuse("a backslash at the end");
    if (c == 'x' && peek(2) == '{') {
      const size_t end = source_.find('}', at_);
      if (end == std::string_view::npos) refuse("\\x{ without its end");
      return taken("\\x{" + hexadecimal(source_.substr(at_ + 3, end - at_ - 3), 6) + "}", end + 1 - at_);
    }
    if (c == 'x') return taken("\\x{" + hexadecimal(source_.substr(at_ + 2, 2), 2) + "}", 4);
    if (c == 'u') return taken("\\x{" + hexadecimal(source_.substr(at_ + 2, 4), 4) + "}", 6);
    if (c == 'v') return taken("\\x{b}", 2);
    if (std::string_view("tnrfae").find(c) != std::string_view::npos) return taken("\\" + std::string(1, c), 2);
    if (std::isalnum(static_cast<unsigned char>(c))) refuse("the escape '\\" + std::string(1, c) + "'");
    if (static_cast<unsigned char>(c) >= 0x80) return taken("", 1);
    return taken("\\" + std::string(1, c), 2);
  }

  std::string taken(std::string text, size_t length) {
    at_ += length;
    return text;
  }

  std::string hexadecimal(std::string_view digits, size_t most) const {
    const bool good = !digits.empty() && digits.size() <= most && std::all_of(digits.begin(), digits.end(), [](char c) {
      return std::isxdigit(static_cast<unsigned char>(c));
    });
    if (!good) refuse("an escape with bad hexadecimal digits");
    return std::string(digits);
  }

  // What stands between && in a class: items of a plain class, and what needs a class of its own.
  struct Union {
    std::string items;
    std::vector<std::string> others;
  };

  // A class, as an expression that matches one character. Only the plain ones map to a class of PCRE2; the others
  // are alternatives (unions) and lookaheads (intersections, complements).
  std::string character_class(int depth) {
    if (depth > kMaxDepth) refuse("character classes nested too deep");
    ++at_;
    const bool negated = peek() == '^';
    if (negated) ++at_;
    std::vector<Union> parts(1);
    if (peek() == ']') {
      parts[0].items = "\\]";
      ++at_;
    }
    while (peek() != ']') {
      if (done()) refuse("a character class without its end");
      class_item(parts, depth);
    }
    ++at_;
    return combined(parts, negated);
  }

  void class_item(std::vector<Union>& parts, int depth) {
    Union& part = parts.back();
    if (starts_with("&&")) {
      parts.emplace_back();
      at_ += 2;
    } else if (starts_with("[:")) {
      posix(part);
    } else if (peek() == '[') {
      part.others.push_back(character_class(depth + 1));
    } else if (peek() == '\\' && peek(1) == 'b') {
      part.items += taken("\\x{8}", 2);
    } else if (peek() == '\\') {
      if (const std::optional<Set> set = escaped_set(kWord)) {
        set->negated ? part.others.push_back(set->bracketed()) : void(part.items += set->body);
      } else {
        part.items += escaped_character();
      }
    } else {
      part.items += source_[at_++];
    }
  }

  // [:alpha:] and [:^alpha:]: the sets of \p, but for punct, which has ASCII's symbols too.
  void posix(Union& part) {
    const size_t end = source_.find(":]", at_);
    if (end == std::string_view::npos) refuse("'[:' in a class without its end");
    std::string_view name = source_.substr(at_ + 2, end - at_ - 2);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    const auto known = find_property(name);
    if (known == kProperties.end()) refuse("'[:" + std::string(name) + ":]'");
    const std::string body = std::string(known->body) + (name == "punct" ? "$+<=>\\^`|~" : "");
    negated ? part.others.push_back("[^" + body + "]") : void(part.items += body);
    at_ = end + 2;
  }

  static std::string expression(const Union& part) {
    if (part.others.empty()) return "[" + part.items + "]";
    std::string out = part.items.empty() ? "" : "[" + part.items + "]";
    for (const std::string& other : part.others) out += (out.empty() ? "" : "|") + other;
    return "(?:" + out + ")";
  }

  std::string combined(const std::vector<Union>& parts, bool negated) const {
    for (const Union& part : parts)
      if (part.items.empty() && part.others.empty()) refuse("an empty part of a character class");
    if (parts.size() == 1 && parts[0].others.empty()) return (negated ? "[^" : "[") + parts[0].items + "]";
    std::string all;
    for (size_t i = 0; i + 1 < parts.size(); ++i) all += "(?=" + expression(parts[i]) + ")";
    all += expression(parts.back());
    return negated ? "(?:(?!" + all + ")(?s:.))" : "(?:" + all + ")";
  }

  std::string_view source_, label_;
  size_t at_ = 0;
  std::string out_;
  std::vector<size_t> groups_;  // where each open group begins in out_
  std::optional<size_t> atom_;  // where the last atom begins in out_
};

}  // namespace

std::string pcre2_from_oniguruma(std::string_view expression, std::string_view label) {
  return Translator(expression, label).run();
}

}  // namespace retort
