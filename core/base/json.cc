#include "core/base/json.h"

#include <unordered_set>

#include "core/base/files.h"

namespace retort {
namespace {

constexpr int kMaxDepth = 128;

// Watches the parse for depth and for keys given twice, which nlohmann-json would silently merge.
template <typename AnyJson>
class Guard {
 public:
  explicit Guard(std::string_view label) : label_(label) {}

  bool operator()(int depth, typename AnyJson::parse_event_t event, AnyJson& parsed) {
    if (depth > kMaxDepth) fail("json", label_, "nested more than 128 levels deep");
    if (event == AnyJson::parse_event_t::object_start) keys_.emplace_back();
    if (event == AnyJson::parse_event_t::object_end) keys_.pop_back();
    if (event == AnyJson::parse_event_t::key && !keys_.back().insert(parsed.template get<std::string>()).second)
      fail("json", label_, "the key '" + parsed.template get<std::string>() + "' is given twice");
    return true;
  }

 private:
  std::string_view label_;
  std::vector<std::unordered_set<std::string>> keys_;
};

template <typename AnyJson>
AnyJson parse_guarded(std::string_view text, std::string_view label) {
  try {
    return AnyJson::parse(text.begin(), text.end(), Guard<AnyJson>(label));
  } catch (const nlohmann::json::exception& e) {
    fail("json", label, e.what());
  }
}

}  // namespace

Json parse_json(std::string_view text, std::string_view label) { return parse_guarded<Json>(text, label); }

SortedJson parse_sorted_json(std::string_view text, std::string_view label) {
  return parse_guarded<SortedJson>(text, label);
}

Json read_json_file(const std::filesystem::path& path) { return parse_json(read_text_file(path), path.string()); }

}  // namespace retort
