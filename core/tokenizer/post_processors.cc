#include "core/tokenizer/components.h"

namespace retort {
namespace {

int32_t checked_id(const SortedJson& value, std::string_view label) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX)
    fail("tokenizer", label, "the post-processor holds a bad token id");
  return value.get<int32_t>();
}

// The ids of a special token named in a template.
std::vector<int32_t> special_ids(const SortedJson& specials, const std::string& name, std::string_view label) {
  const auto token = specials.find(name);
  if (token == specials.end())
    fail("tokenizer", label, "the template's special token '" + name + "' is not among its special_tokens");
  std::vector<int32_t> ids;
  for (const SortedJson& id : json_required<SortedJson>(*token, "ids", label)) ids.push_back(checked_id(id, label));
  return ids;
}

PostProcessor parse_template(const SortedJson& json, std::string_view label) {
  const auto specials = json_required<SortedJson>(json, "special_tokens", label);
  PostProcessor result;
  int texts = 0;
  for (const SortedJson& piece : json_required<SortedJson>(json, "single", label)) {
    if (piece.contains("Sequence")) {
      const auto sequence = json_required<SortedJson>(piece, "Sequence", label);
      if (json_required<std::string>(sequence, "id", label) != "A")
        fail("tokenizer", label, "the template for one text names a second one");
      ++texts;
      continue;
    }
    const auto token = json_required<SortedJson>(piece, "SpecialToken", label);
    const auto ids = special_ids(specials, json_required<std::string>(token, "id", label), label);
    std::vector<int32_t>& side = texts == 0 ? result.before : result.after;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (texts != 1) fail("tokenizer", label, "the template does not hold the text exactly once");
  return result;
}

// ["[CLS]", 101]
int32_t id_of_pair(const SortedJson& json, const char* key, std::string_view label) {
  const auto pair = json_required<SortedJson>(json, key, label);
  if (!pair.is_array() || pair.size() != 2)
    fail("tokenizer", label, std::string("'") + key + "' is not a token with its id");
  return checked_id(pair[1], label);
}

// RobertaProcessing and BertProcessing differ only in pairs of texts.
PostProcessor parse_bert(const SortedJson& json, std::string_view label) {
  return {{id_of_pair(json, "cls", label)}, {id_of_pair(json, "sep", label)}};
}

PostProcessor parse_byte_level(const SortedJson&, std::string_view) { return {}; }  // it moves offsets, not ids

PostProcessor parse_all(const SortedJson& json, std::string_view label) {
  PostProcessor result;
  for (PostProcessor& part : parse_sequence(json, "processors", label, parse_post_processor)) {
    if (part.before.empty() && part.after.empty()) continue;
    if (!result.before.empty() || !result.after.empty())
      fail("tokenizer", label, "a Sequence of two post-processors that add tokens is not supported");
    result = std::move(part);
  }
  return result;
}

using Row = ComponentRow<PostProcessor>;
constexpr std::array kRows{Row{"TemplateProcessing", parse_template}, Row{"RobertaProcessing", parse_bert},
                           Row{"BertProcessing", parse_bert}, Row{"ByteLevel", parse_byte_level},
                           Row{"Sequence", parse_all}};

}  // namespace

PostProcessor parse_post_processor(const SortedJson& json, std::string_view label) {
  if (json.is_null()) return {};
  return parse_component(kRows, "post-processor", json, label);
}

}  // namespace retort
