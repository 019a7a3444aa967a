#include <charconv>
#include <iostream>
#include <iterator>

#include "core/base/error.h"
#include "core/base/files.h"
#include "core/checkpoint/model_source.h"
#include "recipes/operations/rows.h"

namespace retort {
namespace {

constexpr ParamSpec kParams[] = {
    {"model", ParamType::kModel, "", "whose tokenizer; its weights are not needed", true, true},
    {"text", ParamType::kFile, "", "the text; without it standard input"},
    {"plain", ParamType::kFlag, "", "add no special tokens, and read those in the text as text"},
    {"decode", ParamType::kFlag, "", "the input is token ids, separated by blanks or commas; print their text"},
};

std::string read_input(const Params& params) {
  if (params.has("text")) return read_text_file(params.path("text"));
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

std::vector<int32_t> parse_ids(const std::string& text) {
  constexpr std::string_view kBetween = " \t\r\n,";
  std::vector<int32_t> ids;
  for (size_t at = 0; (at = text.find_first_not_of(kBetween, at)) != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    int32_t id = 0;
    const auto [last, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc() || last != text.data() + end)
      fail("tokenize", "'" + text.substr(at, std::min<size_t>(end - at, 40)) + "'", "not a token id");
    ids.push_back(id);
    at = end;
  }
  return ids;
}

std::string join(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

OperationResult run(const Params& params, const std::filesystem::path&, Context&) {
  const auto tokenizer = open_tokenizer(params.path("model"));
  const std::string input = read_input(params);
  if (params.flag("decode")) {
    const std::vector<int32_t> ids = parse_ids(input);
    const std::string text = tokenizer->decode(ids);
    return {.json = {{"ids", ids}, {"text", text}}, .as_asked = true, .text = text};
  }
  const std::vector<int32_t> ids = tokenizer->encode(input, !params.flag("plain"));
  return {.json = {{"ids", ids}}, .as_asked = true, .text = join(ids)};
}

}  // namespace

extern const Operation kTokenizeOperation = {
    .name = "tokenize",
    .version = 1,
    .summary = "Token ids of a text, or the text of token ids",
    .params = kParams,
    .output = OutputKind::kNone,
    .stage = false,
    .resumable = false,
    .run = run,
};

}  // namespace retort
