#include "core/tokenizer/pattern.h"

#include <pcre2.h>

#include <optional>

#include "core/base/error.h"
#include "core/tokenizer/regex_syntax.h"
#include "core/tokenizer/utf8.h"

namespace retort {
namespace {

// Steps of one match after which an expression is given up: a hostile one must not hang the program.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr uint32_t kHeapLimitKiB = 256 * 1024;

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;

std::string message_of(int error) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

class Regex : public Pattern {
 public:
  Regex(std::string_view expression, std::string_view label) : expression_(expression), label_(label) {
    const std::string translated = pcre2_from_oniguruma(expression, label);
    const CompileContext context(pcre2_compile_context_create(nullptr));
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                              context.get()));
    if (!code_) refuse(message_of(error));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where it cannot, matching is interpreted
    limits_.reset(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(limits_.get(), kMatchLimit);
    pcre2_set_heap_limit(limits_.get(), kHeapLimitKiB);
  }

  // A match that is empty and touches the one before it is passed over, as Oniguruma's iterator does.
  void ranges(std::string_view text, const RangeVisitor& visit) const override {
    const MatchData data(pcre2_match_data_create(1, nullptr));
    size_t done = 0, from = 0;
    std::optional<size_t> last_end;
    while (from <= text.size() && search(text, from, data.get())) {
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
      const size_t begin = bounds[0], end = bounds[1];
      if (begin > end || begin < done) refuse("a match that begins before the search for it");
      if (begin == end && last_end == end) {
        from += from < text.size() ? decode_utf8(text, from).length : 1;
        continue;
      }
      if (done != begin) visit(done, begin, false);
      visit(begin, end, true);
      done = from = end;
      last_end = end;
    }
    if (done != text.size()) visit(done, text.size(), false);
  }

 private:
  [[noreturn]] void refuse(const std::string& reason) const {
    fail("tokenizer", label_, "the regular expression '" + expression_ + "': " + reason);
  }

  bool search(std::string_view text, size_t from, pcre2_match_data* data) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, limits_.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its state on the heap
      rc = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, limits_.get());
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0) refuse(message_of(rc));
    return true;
  }

  std::string expression_, label_;
  Code code_;
  MatchContext limits_;
};

class Literal : public Pattern {
 public:
  explicit Literal(std::string_view text) : literal_(text) {}

  void ranges(std::string_view text, const RangeVisitor& visit) const override {
    size_t done = 0;
    for (size_t at; (at = text.find(literal_, done)) != std::string_view::npos; done = at + literal_.size()) {
      if (done != at) visit(done, at, false);
      visit(at, at + literal_.size(), true);
    }
    if (done != text.size()) visit(done, text.size(), false);
  }

 private:
  std::string literal_;
};

class CharacterKind : public Pattern {
 public:
  explicit CharacterKind(bool (*matches)(char32_t)) : matches_(matches) {}

  void ranges(std::string_view text, const RangeVisitor& visit) const override {
    size_t done = 0;
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = decode_utf8(text, at);
      const size_t next = at + c.length;
      if (matches_(c.value)) {
        if (done != at) visit(done, at, false);
        visit(at, next, true);
        done = next;
      }
      at = next;
    }
    if (done != text.size()) visit(done, text.size(), false);
  }

 private:
  bool (*matches_)(char32_t);
};

}  // namespace

std::unique_ptr<Pattern> regex_pattern(std::string_view expression, std::string_view label) {
  return std::make_unique<Regex>(expression, label);
}

std::unique_ptr<Pattern> literal_pattern(std::string_view text, std::string_view label) {
  if (text.empty()) return regex_pattern("", label);
  return std::make_unique<Literal>(text);
}

std::unique_ptr<Pattern> character_pattern(bool (*matches)(char32_t)) {
  return std::make_unique<CharacterKind>(matches);
}

std::unique_ptr<Pattern> parse_pattern(const SortedJson& object, std::string_view label) {
  const auto pattern = json_required<SortedJson>(object, "pattern", label);
  if (pattern.contains("String")) return literal_pattern(json_required<std::string>(pattern, "String", label), label);
  return regex_pattern(json_required<std::string>(pattern, "Regex", label), label);
}

std::string replace_all(const Pattern& pattern, std::string_view text, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  pattern.ranges(text, [&](size_t begin, size_t end, bool matched) {
    out += matched ? content : text.substr(begin, end - begin);
  });
  return out;
}

}  // namespace retort
