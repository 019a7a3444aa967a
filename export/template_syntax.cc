#include "export/template_syntax.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

namespace retort {
namespace {

// Statements that a statement of their own ends, with what may stand between.
struct Block {
  std::string_view name, end;
  bool branches = false;  // has {% else %}
};
constexpr std::array kBlocks{Block{"if", "endif", true},
                             Block{"for", "endfor", true},
                             Block{"macro", "endmacro"},
                             Block{"call", "endcall"},
                             Block{"filter", "endfilter"},
                             Block{"set", "endset"},
                             Block{"with", "endwith"},
                             Block{"block", "endblock"},
                             Block{"autoescape", "endautoescape"},
                             Block{"generation", "endgeneration"}};
constexpr std::array<std::string_view, 6> kStatements{"include", "import", "from", "extends", "break", "continue"};
constexpr std::string_view kOperators = "+-/*%~[](){}=!<>.:|,;";

bool is_name(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return std::isalnum(byte) != 0 || c == '_' || byte >= 0x80;
}

class Checker {
 public:
  explicit Checker(std::string_view text) : text_(text) {}

  std::string first_error() {
    while (error_.empty() && at_ < text_.size()) step();
    if (error_.empty() && !open_.empty()) fail_at(open_.back().at, "nothing ends '" + name(open_.back()) + "'");
    return error_;
  }

 private:
  struct Open {
    const Block* block;
    size_t at;
    bool has_else = false;
  };
  // What stands between two delimiters: whether there is anything, its first name, and a "=" outside of brackets.
  struct Inside {
    size_t tokens = 0;
    std::string_view first;
    bool assigns = false;
  };

  static std::string name(const Open& open) { return "{% " + std::string(open.block->name) + " %}"; }

  void fail_at(size_t at, const std::string& what) {
    if (!error_.empty()) return;
    error_ = "line " +
             std::to_string(std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at), '\n') + 1) +
             ": " + what;
  }

  bool next_is(std::string_view what) const { return text_.substr(at_).starts_with(what); }

  // Text up to the next delimiter, and what that opens.
  void step() {
    at_ = std::min(text_.find('{', at_), text_.size());
    const size_t begin = at_;
    const bool statement = next_is("{%"), expression = next_is("{{"), comment = next_is("{#");
    at_ = std::min(at_ + (statement || expression || comment ? 2 : 1), text_.size());
    if (comment) return skip_behind("#}", begin, "a comment does not end");
    if (!statement && !expression) return;
    const Inside inside = read_inside(statement ? "%}" : "}}", begin);
    if (!error_.empty()) return;
    if (inside.tokens == 0) return fail_at(begin, "there is nothing between the delimiters");
    if (statement) read_statement(inside, begin);
  }

  void skip_behind(std::string_view what, size_t begin, const char* otherwise) {
    const size_t end = text_.find(what, at_);
    if (end == std::string_view::npos) return fail_at(begin, otherwise);
    at_ = end + what.size();
  }

  // Tokens up to `end`, which brackets that are open hide.
  Inside read_inside(std::string_view end, size_t begin) {
    Inside inside;
    std::string brackets;
    if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
    while (error_.empty() && at_ < text_.size()) {
      if (brackets.empty() && ends_here(end)) return inside;
      read_token(inside, brackets);
    }
    fail_at(begin, "'" + std::string(text_.substr(begin, 2)) + "' does not end");
    return inside;
  }

  bool ends_here(std::string_view end) {
    const size_t sign = text_[at_] == '-' || (text_[at_] == '+' && end == "%}") ? 1 : 0;
    if (!text_.substr(at_ + sign).starts_with(end)) return false;
    at_ += sign + end.size();
    return true;
  }

  void read_token(Inside& inside, std::string& brackets) {
    const size_t begin = at_;
    const char c = text_[at_++];
    if (std::isspace(static_cast<unsigned char>(c)) != 0) return;
    if (c == '\'' || c == '"') {
      skip_string(c, begin);
    } else if (is_name(c)) {
      while (at_ < text_.size() && is_name(text_[at_])) ++at_;
      if (inside.tokens == 0) inside.first = text_.substr(begin, at_ - begin);
    } else if (kOperators.find(c) == std::string_view::npos) {
      fail_at(begin, std::string("'") + c + "' has no meaning there");
    } else if (brackets.empty() && c == '=') {
      inside.assigns = true;
    } else {
      match_bracket(c, begin, brackets);
    }
    ++inside.tokens;
  }

  void skip_string(char quote, size_t begin) {
    while (at_ < text_.size() && text_[at_] != quote) at_ += text_[at_] == '\\' ? 2 : 1;
    if (at_ >= text_.size()) return fail_at(begin, "a string does not end");
    ++at_;
  }

  void match_bracket(char c, size_t begin, std::string& brackets) {
    constexpr std::string_view kOpening = "([{", kClosing = ")]}";
    if (kOpening.find(c) != std::string_view::npos) brackets += c;
    const size_t kind = kClosing.find(c);
    if (kind == std::string_view::npos) return;
    if (brackets.empty() || brackets.back() != kOpening[kind])
      return fail_at(begin, std::string("'") + c + "' closes no bracket");
    brackets.pop_back();
  }

  void read_statement(const Inside& inside, size_t begin) {
    const std::string_view tag = inside.first;
    const auto opens = std::ranges::find(kBlocks, tag, &Block::name);
    if (tag == "raw") return skip_raw(begin);
    if (tag == "else" || tag == "elif") return read_branch(tag, begin);
    if (opens != kBlocks.end()) {
      if (tag != "set" || !inside.assigns) open_.push_back({&*opens, begin});
    } else if (std::ranges::find(kBlocks, tag, &Block::end) != kBlocks.end()) {
      close(tag, begin);
    } else if (std::ranges::find(kStatements, tag) == kStatements.end()) {
      fail_at(begin, "Jinja has no statement '" + std::string(tag) + "'");
    }
  }

  void skip_raw(size_t begin) {
    for (size_t end = at_; (end = text_.find("endraw", end)) != std::string_view::npos; ++end) {
      at_ = end + std::string_view("endraw").size();
      while (at_ < text_.size() &&
             (std::isspace(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '-' || text_[at_] == '+'))
        ++at_;
      if (next_is("%}")) return;
    }
    fail_at(begin, "nothing ends '{% raw %}'");
  }

  void read_branch(std::string_view tag, size_t begin) {
    const bool fits = !open_.empty() && open_.back().block->branches && !open_.back().has_else &&
                      (tag == "else" || open_.back().block->name == "if");
    if (!fits) return fail_at(begin, "'{% " + std::string(tag) + " %}' belongs to nothing");
    open_.back().has_else = tag == "else";
  }

  void close(std::string_view tag, size_t begin) {
    if (open_.empty() || open_.back().block->end != tag)
      return fail_at(begin, "'{% " + std::string(tag) + " %}' ends " +
                                (open_.empty() ? "nothing" : "'" + name(open_.back()) + "'"));
    open_.pop_back();
  }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<Open> open_;
  std::string error_;
};

}  // namespace

std::string template_syntax_error(std::string_view chat) { return Checker(chat).first_error(); }

}  // namespace retort
