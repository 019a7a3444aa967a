#include "export/modelfile.h"

#include <algorithm>
#include <array>
#include <set>

namespace retort {
namespace {

// A layout of turns, known by what its Jinja template has to contain.
struct Layout {
  std::string_view marker;
  std::string_view turn;    // of one message, in Go's text/template
  std::string_view answer;  // what the model continues
  std::string_view stop;
};

constexpr std::array kLayouts{
    Layout{"<|im_start|>", "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n", "<|im_start|>assistant\n",
           "<|im_end|>"},
    Layout{"<|start_header_id|>", "<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>",
           "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
    Layout{"<|assistant|>", "<|{{ .Role }}|>\n{{ .Content }}</s>\n", "<|assistant|>\n", "</s>"},
};

// A template with branches for tools, or with another layout, would lose something.
const Layout* layout_of(const std::string& chat) {
  const auto has = [&](std::string_view text) { return chat.find(text) != std::string::npos; };
  for (const Layout& layout : kLayouts)
    if (has(layout.marker) && has(layout.stop)) return &layout;
  return nullptr;
}

// Texts of the tokens that end a generation.
std::set<std::string> stops_of(const ModelSource& source) {
  std::set<std::string> stops;
  const auto tokenizer = source.tokenizer();
  const auto& tokens = tokenizer->vocabulary().tokens;
  for (const int64_t id : source.config().eos_ids)
    if (id >= 0 && id < static_cast<int64_t>(tokens.size())) stops.insert(tokens[static_cast<size_t>(id)].text);
  return stops;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
  return out + "\"";
}

}  // namespace

Modelfile modelfile_of(const ModelSource& source, const std::string& gguf) {
  Modelfile file{"FROM ./" + gguf + "\n", {}};
  std::set<std::string> stops = stops_of(source);
  const std::string chat = source.chat_template();
  const Layout* layout = layout_of(chat);
  if (layout != nullptr) {
    file.text += "TEMPLATE \"\"\"{{ range .Messages }}" + std::string(layout->turn) + "{{ end }}" +
                 std::string(layout->answer) + "\"\"\"\n";
    stops.emplace(layout->stop);
  } else if (!chat.empty()) {
    file.problem =
        "Ollama cannot render the chat template: its layout of turns is not one that a Modelfile is written for";
    file.text += "# " + file.problem + "\n";
  }
  for (const std::string& stop : stops) file.text += "PARAMETER stop " + quoted(stop) + "\n";
  return file;
}

}  // namespace retort
