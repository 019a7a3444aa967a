#include "export/modelfile.h"

#include <algorithm>
#include <array>
#include <set>

namespace retort {
namespace {

// A layout of turns, in Go's text/template with Ollama's variables, and how its Jinja template is known. Contents are
// rendered as they are, where some templates trim them; tools are left out. "{eos}" stands for the text of that token.
struct Layout {
  std::array<std::string_view, 3> needs;  // texts in the template, as its source has them
  std::array<std::string_view, 3> lacks;  // what would make it say more
  std::string_view before;                // what comes first; .System is the text of the system messages
  std::string_view turn;                  // of one message
  std::string_view answer;                // what the model continues
  std::string_view stop;
};

constexpr std::string_view kRoleIn = "<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>";
constexpr std::string_view kLlamaAnswer = "<|start_header_id|>assistant<|end_header_id|>\n\n";
constexpr std::string_view kDeepSeekAnswer = "<｜Assistant｜><think>\n", kDeepSeekStop = "<｜end▁of▁sentence｜>";

constexpr std::array kLayouts{
    Layout{{"<|im_start|>", "<|im_end|>"},
           {"macro"},
           "{default}",
           "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n",
           "<|im_start|>assistant\n",
           "<|im_end|>"},
    Layout{{"<|start_header_id|>", "<|eot_id|>", "date_string = \"26 Jul 2024\""},
           {"strftime_now"},
           "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
           "Today Date: 26 Jul 2024\n\n{{ .System }}<|eot_id|>",
           "{{ if ne .Role \"system\" }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"
           "{{ end }}",
           kLlamaAnswer,
           "<|eot_id|>"},
    Layout{{"<|start_header_id|>", "<|eot_id|>"},
           {"Knowledge", "tools", "functions"},
           "",
           kRoleIn,
           kLlamaAnswer,
           "<|eot_id|>"},
    Layout{{"<start_of_turn>", "<end_of_turn>", "'model'"},
           {"tools"},
           "",
           "<start_of_turn>{{ if eq .Role \"assistant\" }}model{{ else }}{{ .Role }}{{ end }}\n"
           "{{ .Content }}<end_of_turn>\n",
           "<start_of_turn>model\n",
           "<end_of_turn>"},
    Layout{{"<|assistant|>", "<|end|>", "<|user|>"},
           {"tools", "default"},
           "",
           "<|{{ .Role }}|>\n{{ .Content }}<|end|>\n",
           "<|assistant|>\n",
           "<|end|>"},
    Layout{{"<|assistant|>", "<|user|>", "eos_token"},
           {"tools", "<|end|>"},
           "",
           "<|{{ .Role }}|>\n{{ .Content }}{eos}\n",
           "<|assistant|>\n",
           "{eos}"},
    Layout{{"'<｜User｜>' + message['content'] + '<｜end▁of▁sentence｜>'", "<think>"},
           {},
           "{{ .System }}",
           "{{ if eq .Role \"user\" }}<｜User｜>{{ .Content }}<｜end▁of▁sentence｜>{{ else if eq .Role \"assistant\" }}"
           "<｜Assistant｜>{{ .Content }}<｜end▁of▁sentence｜>{{ end }}",
           kDeepSeekAnswer,
           kDeepSeekStop},
    Layout{{"'<｜User｜>' + message['content']}}", "<｜Assistant｜><think>\\n"},
           {},
           "{{ .System }}",
           "{{ if eq .Role \"user\" }}<｜User｜>{{ .Content }}{{ else if eq .Role \"assistant\" }}"
           "<｜Assistant｜>{{ .Content }}<｜end▁of▁sentence｜>{{ end }}",
           kDeepSeekAnswer,
           kDeepSeekStop},
    Layout{{R"("[INST]" + system_message + "\n\n" + message["content"] + "[/INST]")"},
           {"[SYSTEM_PROMPT]"},
           "",
           "{{ if eq .Role \"user\" }}[INST]{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}{{ $.System }}\n\n"
           "{{ end }}{{ .Content }}[/INST]{{ else if eq .Role \"assistant\" }}{{ .Content }}{eos}{{ end }}",
           "",
           "{eos}"},
};

const Layout* layout_of(const std::string& chat) {
  const auto has = [&](std::string_view text) { return chat.find(text) != std::string::npos; };
  const auto has_some = [&](std::string_view text) { return !text.empty() && has(text); };
  for (const Layout& layout : kLayouts)
    if (std::ranges::all_of(layout.needs, has) && std::ranges::none_of(layout.lacks, has_some)) return &layout;
  return nullptr;
}

void replace_all(std::string& text, std::string_view what, const std::string& with) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
}

// What a template of im_start puts first where there is no system message: a literal in its source.
std::string default_system(const std::string& chat) {
  for (const std::string_view opening : {"<|im_start|>system\\n", "<|im_start|>system\n"})
    for (size_t at = 0; (at = chat.find(opening, at)) != std::string::npos;) {
      at += opening.size();
      const std::string text = chat.substr(at, chat.find("<|im_end|>", at) - at);
      if (!text.empty() && text.find_first_of("'\"{}\\") == std::string::npos)
        return "{{ if not .System }}<|im_start|>system\n" + text + "<|im_end|>\n{{ end }}";
    }
  return {};
}

std::string token_text(const Vocabulary& vocabulary, int64_t id) {
  const bool known = id >= 0 && id < static_cast<int64_t>(vocabulary.tokens.size());
  return known ? vocabulary.tokens[static_cast<size_t>(id)].text : std::string();
}

std::string eos_text(const ModelSource& source, const Vocabulary& vocabulary) {
  const auto& ids = source.config().eos_ids;
  return token_text(vocabulary, vocabulary.eos ? *vocabulary.eos : ids.empty() ? -1 : ids.front());
}

// Texts of the tokens that end a generation.
std::set<std::string> stops_of(const ModelSource& source, const Vocabulary& vocabulary) {
  std::set<std::string> stops;
  for (const int64_t id : source.config().eos_ids)
    if (std::string text = token_text(vocabulary, id); !text.empty()) stops.insert(std::move(text));
  return stops;
}

// A Modelfile has no escapes: Ollama takes what lies between two quotation marks as it is, less control characters. In
// a template two braces begin an action.
bool can_be_quoted(std::string_view text) {
  const auto is_special = [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '"'; };
  return std::ranges::none_of(text, is_special) && text.find("{{") == std::string_view::npos;
}

// What is not said is said to be missing, in the file too.
void report(Modelfile& file, const std::string& problem) {
  file.problem += (file.problem.empty() ? "" : "; ") + problem;
  file.text += "# " + problem + "\n";
}

void add_template(Modelfile& file, const Layout& layout, const std::string& chat, const std::string& eos) {
  std::string text(layout.before);
  text.append("{{ range $i, $_ := .Messages }}").append(layout.turn).append("{{ end }}").append(layout.answer);
  replace_all(text, "{default}", default_system(chat));
  if (text.find("{eos}") != std::string::npos && !can_be_quoted(eos))
    return report(file, "Ollama cannot render the chat template: no Modelfile can quote the text of its EOS token");
  replace_all(text, "{eos}", eos);
  file.text += "TEMPLATE \"\"\"" + text + "\"\"\"\n";
}

}  // namespace

Modelfile modelfile_of(const ModelSource& source, const std::string& gguf) {
  Modelfile file{"FROM ./" + gguf + "\n", {}};
  const auto tokenizer = source.tokenizer();
  std::set<std::string> stops = stops_of(source, tokenizer->vocabulary());
  const std::string chat = source.chat_template(), eos = eos_text(source, tokenizer->vocabulary());
  if (const Layout* layout = layout_of(chat)) {
    add_template(file, *layout, chat, eos);
    std::string stop(layout->stop);
    replace_all(stop, "{eos}", eos);
    if (!stop.empty()) stops.insert(std::move(stop));
  } else if (!chat.empty()) {
    report(file,
           "Ollama cannot render the chat template: its layout of turns is not one that a Modelfile is written for");
  }
  for (const std::string& stop : stops)
    if (can_be_quoted(stop))
      file.text += "PARAMETER stop \"" + stop + "\"\n";
    else
      report(file, "no Modelfile can quote the text of a token that ends a generation");
  return file;
}

}  // namespace retort
