#include "core/base/json.h"

#include <algorithm>
#include <unordered_set>

#include "core/base/files.h"

namespace retort {
namespace {

constexpr int kMaxDepth = 128;
constexpr size_t kMaxKeys = size_t{1} << 15;  // of a Json object, in which finding a key takes time by their number

// `position`: how many characters were read until the text was JSON no more.
[[noreturn]] void fail_syntax(std::string_view text, size_t position, std::string_view label) {
  const std::string_view read = text.substr(0, position);
  const std::string line = "line " + std::to_string(1 + std::ranges::count(read, '\n'));
  if (position > text.size()) fail("json", label, "it is no JSON: it ends too early, in " + line);
  const size_t column = read.size() - (read.rfind('\n') + 1);  // without a line break npos + 1, which is 0
  fail("json", label, "it is no JSON: unexpected text in " + line + ", column " + std::to_string(column));
}

// Reads the text for its form, depth and keys given twice, which nlohmann-json would silently merge. A pass of its
// own: with a callback, the library's parser takes time that grows with the square of the objects in an object.
class Guard : public nlohmann::json_sax<Json> {
 public:
  Guard(std::string_view text, std::string_view label, size_t max_keys)
      : text_(text), label_(label), max_keys_(max_keys) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(Json::number_integer_t) override { return true; }
  bool number_unsigned(Json::number_unsigned_t) override { return true; }
  bool number_float(Json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(Json::binary_t&) override { return true; }
  bool start_array(size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool start_object(size_t) override {
    keys_.emplace_back();
    return enter();
  }
  bool end_object() override {
    keys_.pop_back();
    return leave();
  }
  bool key(std::string& key) override {
    if (!keys_.back().insert(key).second) fail("json", label_, "the key '" + key.substr(0, 200) + "' is given twice");
    if (keys_.back().size() > max_keys_) fail("json", label_, "an object has more than 32768 keys");
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail_syntax(text_, position, label_);
  }

 private:
  bool enter() {
    if (++depth_ > kMaxDepth) fail("json", label_, "nested more than 128 levels deep");
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }

  std::string_view text_, label_;
  size_t max_keys_;
  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;
};

template <typename AnyJson>
AnyJson parse_guarded(std::string_view text, std::string_view label, size_t max_keys) {
  Guard guard(text, label, max_keys);  // throws where the library's parser would
  Json::sax_parse(text.begin(), text.end(), &guard);
  return AnyJson::parse(text.begin(), text.end());
}

}  // namespace

Json parse_json(std::string_view text, std::string_view label) { return parse_guarded<Json>(text, label, kMaxKeys); }

SortedJson parse_sorted_json(std::string_view text, std::string_view label) {
  return parse_guarded<SortedJson>(text, label, SIZE_MAX);
}

Json read_json_file(const std::filesystem::path& path) { return parse_json(read_text_file(path), path.string()); }

}  // namespace retort
