#include "export/model_name.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <optional>
#include <regex>
#include <vector>

namespace retort {
namespace {

constexpr size_t kLongestPart = 96;  // what Hugging Face lets a whole name have; std::regex recurses

bool is_letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }
bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }
char upper(char c) { return static_cast<char>(std::toupper(static_cast<unsigned char>(c))); }
char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

bool matches(std::string_view text, const char* pattern) {
  if (text.size() > kLongestPart) return false;
  return std::regex_match(text.begin(), text.end(), std::regex(pattern, std::regex::ECMAScript | std::regex::icase));
}

enum class Kind { kUnknown, kBase, kSize, kFineTune, kVersion, kType };
struct Part {
  std::string text;
  Kind kind = Kind::kUnknown;
  bool in_base = false;  // a version that belongs to the base: the 3.2 of Llama-3.2
};

std::vector<Part> split(std::string_view name) {
  std::vector<Part> parts;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('-', begin), name.size());
    if (end > begin) parts.push_back({std::string(name.substr(begin, end - begin))});
    begin = end + 1;
  }
  return parts;
}

// "7b1" is 7.1B, "1_5b" 1.5B.
std::string normal_size(std::string text) {
  std::ranges::replace(text, '_', '.');
  const size_t n = text.size();
  if (is_digit(text.back())) text = text.substr(0, n - 2) + "." + text[n - 1] + text[n - 2];
  if (text.size() > 1 && is_digit(text[text.size() - 2])) text.back() = upper(text.back());
  return text;
}

// Of "1.5B", and of nothing else ("8x7B", "A3B", "mini").
std::optional<double> parameters_of(const std::string& size) {
  if (!matches(size, R"(\d+(\.\d+)?[KMBT])")) return {};
  const size_t power = std::string_view(" KMBT").find(size.back());
  return std::stod(size) * std::pow(1000.0, static_cast<double>(power));
}

// The size of a model of so many parameters, or else a length of context: "128k".
void annotate_size(Part& part, int64_t parameters) {
  part.text = normal_size(std::move(part.text));
  const auto said = parameters_of(part.text);
  const auto far = [&] {
    return std::abs(*said - static_cast<double>(parameters)) > static_cast<double>(7 * parameters / 8);
  };
  part.kind = said && far() ? Kind::kFineTune : Kind::kSize;
  if (part.kind == Kind::kFineTune) part.text.back() = lower(part.text.back());
}

void annotate(Part& part, bool first, int64_t parameters) {
  constexpr const char* kSizes = R"((([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl))";
  if (matches(part.text, R"((v|iter)?\d+([.]\d+)*)")) {
    part.kind = Kind::kVersion;
  } else if (matches(part.text, R"(i?q\d(_\w)*|b?fp?(16|32))")) {
    part.kind = Kind::kType;
  } else if (!first && matches(part.text, kSizes)) {
    annotate_size(part, parameters);
  } else if (!first && matches(part.text, "chat|instruct|vision|lora")) {
    part.kind = Kind::kFineTune;
  }
}

// "mini" is a size where no number is.
void forget_words_beside_numbers(std::vector<Part>& parts) {
  const auto is_size = [](const Part& part) { return part.kind == Kind::kSize; };
  const auto is_number = [&](const Part& part) { return is_size(part) && std::ranges::any_of(part.text, is_digit); };
  if (std::ranges::none_of(parts, is_number)) return;
  for (Part& part : parts)
    if (is_size(part) && std::ranges::all_of(part.text, is_letter)) part.kind = Kind::kUnknown;
}

// The base is what the name begins with, and versions between its words; what is left over says how it was tuned.
void find_base(std::vector<Part>& parts) {
  bool at_start = true;
  for (Part& part : parts) {
    const bool word = part.kind == Kind::kUnknown && is_letter(part.text.front());
    at_start = at_start && (word || part.kind == Kind::kVersion);
    part.in_base = at_start;
    if (part.kind == Kind::kUnknown) part.kind = at_start ? Kind::kBase : Kind::kFineTune;
  }
  for (auto part = parts.rbegin(); part != parts.rend() && part->in_base && part->kind == Kind::kVersion; ++part)
    part->in_base = false;
}

template <typename Chosen>
std::string joined(const std::vector<Part>& parts, Chosen chosen) {
  std::string text;
  for (const Part& part : parts)
    if (chosen(part)) text += (text.empty() ? "" : "-") + part.text;
  return text;
}

// A size that is said twice counts once.
std::string joined_sizes(std::vector<Part> parts) {
  for (size_t i = 0; i < parts.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (parts[j].kind == Kind::kSize && parts[j].text == parts[i].text) parts[i].kind = Kind::kUnknown;
  return joined(parts, [](const Part& part) { return part.kind == Kind::kSize; });
}

// The letters and digits of a part of a file's name, with dashes for what lies between them.
std::string plain(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kLongestPart)) {
    if (is_letter(c) || is_digit(c))
      out += c;
    else if (!out.empty() && out.back() != '-')
      out += '-';
  }
  if (!out.empty() && out.back() == '-') out.pop_back();
  return out;
}

// A word of a base begins with a letter, or is a number; "4bit" is a number and a word.
std::string plain_base(std::string_view text) {
  static const std::regex number_and_word("-([0-9]+)([A-Za-z])");
  return std::regex_replace(plain(text), number_and_word, "-$1-$2");
}

void append(std::string& text, const std::string& part) {
  if (!part.empty()) text += (text.empty() ? "" : "-") + part;
}

}  // namespace

ModelName parse_model_name(std::string_view id, int64_t parameters) {
  ModelName name{
      .full = std::string(id.substr(id.find('/') + 1)), .base = {}, .size = {}, .finetune = {}, .version = {}};
  std::vector<Part> parts = split(name.full);
  for (Part& part : parts) annotate(part, &part == parts.data(), parameters);
  forget_words_beside_numbers(parts);
  find_base(parts);
  name.size = joined_sizes(parts);
  name.finetune = joined(parts, [](const Part& part) { return part.kind == Kind::kFineTune; });
  name.version = joined(parts, [](const Part& part) { return part.kind == Kind::kVersion && !part.in_base; });
  const bool says_something = !name.size.empty() || !name.finetune.empty() || !name.version.empty();
  if (says_something) name.base = joined(parts, [](const Part& part) { return part.in_base; });
  return name;
}

std::string title_of(std::string_view name) {
  std::string title;
  for (Part& part : split(name)) {
    const bool small = std::ranges::none_of(part.text, [](char c) { return c >= 'A' && c <= 'Z'; });
    const bool number = is_digit(part.text.front()) || matches(part.text, R"(v\d+(\.\d+)*)");
    for (size_t i = 0; small && !number && i < part.text.size(); ++i)
      if (i == 0 || !is_letter(part.text[i - 1])) part.text[i] = upper(part.text[i]);
    title += (title.empty() ? "" : " ") + part.text;
  }
  return title;
}

std::string size_label(int64_t parameters) {
  const auto count = static_cast<double>(parameters);
  const double unit = count > 1e12 ? 1e12 : count > 1e9 ? 1e9 : count > 1e6 ? 1e6 : 1e3;
  const double scaled = count / unit, whole = std::nearbyint(scaled);
  const int decimals = whole < 1 ? 2 : whole < 10 ? 1 : 0;  // two digits at least
  char text[32];
  std::snprintf(text, sizeof text, "%.*f%c", decimals, scaled,
                unit == 1e12  ? 'T'
                : unit == 1e9 ? 'B'
                : unit == 1e6 ? 'M'
                              : 'K');
  return text;
}

std::string gguf_stem(const ModelName& name, int64_t parameters, std::string_view encoding) {
  const bool sized = matches(name.size, R"((\d+x)?(\d+\.)?\d+[A-Z](-[A-Z]+(\d+\.)?\d+[A-Z]+)?)");
  const std::string version =
      name.version.empty() || !is_digit(name.version.front()) ? name.version : "v" + name.version;
  const bool versioned = matches(version, R"(v\d+(\.\d+)*)");
  std::string text = plain_base(name.base.empty() ? title_of(name.full) : name.base);
  if (!sized) append(text, plain_base(name.size));  // "mini", which is no count
  append(text, sized ? name.size : size_label(parameters));
  append(text, plain(name.finetune));
  if (!versioned) append(text, plain(version));
  append(text, versioned ? version : "v1.0");
  return text + "-" + std::string(encoding);
}

}  // namespace retort
